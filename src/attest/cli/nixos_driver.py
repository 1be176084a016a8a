"""`attest-nixos-driver`: takes what NixOS gives its own test driver, of each age, and runs it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from attest.cli.command import exit_codes
from attest.cli.testing import Options, run_test
from attest.cluster.options import ClusterOptions
from attest.cluster.start_scripts import machine_name
from attest.errors import UsageError
from attest.manifest import Manifest, load_manifest, parse_manifest
from attest.support.validation import read_text, unreadable

__all__ = ["main"]

_TIMEOUT: Final = 3600.0
"""Seconds: NixOS's ``globalTimeout``, where none is given."""

_QUIET: Final = ("warning", "error")
"""Log levels at which consoles and the output of commands are not shown."""

_DURATION: Final = re.compile(
    r"P(?:(?P<days>[\d.]+)D)?(?:T(?:(?P<hours>[\d.]+)H)?(?:(?P<minutes>[\d.]+)M)?"
    r"(?:(?P<seconds>[\d.]+)S)?)?"
)


class _Vm(msgspec.Struct):
    """A virtual machine, as a configuration file of NixOS's driver declares it."""

    name: str
    start_script: str


class _Configuration(msgspec.Struct):
    """The file that NixOS gives its driver with ``--config``, since 26.05.

    Other keys than these are of no concern here.
    """

    vms: dict[str, _Vm]
    test_script: str
    vlans: list[int] = []
    containers: dict[str, Any] = {}
    global_timeout: float | Annotated[str, msgspec.Meta(pattern="^P")] = _TIMEOUT
    enable_ssh_backdoor: bool = False


def main() -> None:
    """Run the command and exit; `attest.errors` has the exit codes."""
    with exit_codes():
        sys.exit(_run(sys.argv[1:], os.environ))


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    options = _parser(environment).parse_args(arguments)
    test = _manifest(options)
    if options.debug_hook_attach:
        print("attest: --debug-hook-attach has no effect", file=sys.stderr)
    out = options.output_directory.resolve()
    if not os.access(out, os.W_OK):
        raise UsageError(f"--output-directory: {out} is no directory that can be written")
    return run_test(
        test,
        Options(
            out=out,
            keep=False,
            verbose=options.log_level not in _QUIET,
            interactive=options.interactive,
            junit=out / options.junit_xml if options.junit_xml else None,
            cluster=ClusterOptions(
                state_dir=_states() if options.keep_machine_state else None,
                snapshots=options.snapshots,
            ),
        ),
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    def words(name: str) -> list[str]:
        return environment.get(name, "").split()

    parser = argparse.ArgumentParser(
        prog="attest-nixos-driver",
        description="Run a NixOS test with attest: takes the options and the environment of "
        "nixos-test-driver.",
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, help="the configuration file of NixOS 26.05 and later")
    add(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="attest's own manifest of the machines, instead of all that tells of start scripts",
    )
    add("--snapshots", type=Path, metavar="DIR",
        help="what the machines of a manifest start from; see `attest run`")  # fmt: skip
    add("--start-scripts", "--vm-start-scripts", nargs="*", metavar="SCRIPT",
        default=words("vmStartScripts") or words("startScripts"),
        help="what starts the machines [default: $vmStartScripts or $startScripts]")  # fmt: skip
    add("--vm-names", nargs="*", metavar="NAME", default=words("vmNames"),
        help="their names [default: $vmNames, or from run-NAME-vm]")  # fmt: skip
    add("--container-names", nargs="*", default=words("containerNames"), help="must be empty")
    add("--container-start-scripts", nargs="*", default=words("containerStartScripts"),
        help="must be empty: there are no containers")  # fmt: skip
    add("--vlans", nargs="*", type=int, metavar="VLAN", default=words("vlans"),
        help="the networks [default: $vlans]")  # fmt: skip
    add("--global-timeout", type=float, metavar="SECONDS",
        default=environment.get("globalTimeout", _TIMEOUT),
        help="for the script [default: $globalTimeout]")  # fmt: skip
    add("-o", "--output-directory", "--output_directory", type=Path, default=Path(),
        help="where logs and artefacts go [default: the working directory]")  # fmt: skip
    add("-K", "--keep-machine-state", "--keep-vm-state", action="store_true",
        help="go on with the machines' files of the run before")  # fmt: skip
    add("-I", "--interactive", action=argparse.BooleanOptionalAction, default=False,
        help="open a Python console instead of running the script")  # fmt: skip
    add("--junit-xml", type=Path, metavar="FILE", help="write a report, into the output directory")
    add("--log-level", default=environment.get("logLevel", "info"),
        choices=("debug", "info", "warning", "error"),
        help="from `warning` on, consoles are not shown [default: $logLevel]")  # fmt: skip
    add("--debug-hook-attach", metavar="COMMAND", help="has no effect")
    add("test_script", nargs="?", type=Path, default=environment.get("testScript"),
        help="the test's script [default: $testScript]")  # fmt: skip
    return parser


def _manifest(options: argparse.Namespace) -> Manifest:
    if options.manifest:
        return _with_script(load_manifest(options.manifest), options.test_script)
    configuration = _configuration(options)
    if configuration.containers:
        names = ", ".join(configuration.containers)
        raise UsageError(
            f"containers are not offered: {names}", hint="`nodes` makes virtual machines of them"
        )
    if configuration.enable_ssh_backdoor:
        print("attest: the SSH backdoor is not offered", file=sys.stderr)
    script = Path(configuration.test_script)
    top: dict[str, Any] = {
        "name": _test_name(script),
        "script": _text(script),
        "timeout": _seconds(configuration.global_timeout),
        "vlans": configuration.vlans,
    }
    nodes = {
        vm.name: {"start_command": str(Path(vm.start_script).absolute())}
        for vm in configuration.vms.values()
    }
    if nodes:
        return parse_manifest({**top, "nodes": nodes}, source="attest-nixos-driver")
    return Manifest(nodes={}, **top)  # the script may make machines


def _with_script(manifest: Manifest, script: Path | None) -> Manifest:
    return msgspec.structs.replace(manifest, script=_text(script)) if script else manifest


def _text(script: Path) -> str:
    """A script's text, with a line's end, so that it is no path."""
    try:
        return read_text(script) + "\n"
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{script}: cannot read the test's script: {unreadable(error)}") from None


def _configuration(options: argparse.Namespace) -> _Configuration:
    if options.config is not None:
        try:
            return msgspec.json.decode(options.config.read_bytes(), type=_Configuration)
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"{options.config}: cannot read the configuration: {error}") from None
    if options.test_script is None:
        raise UsageError("no script is given", hint="--config, an argument, or $testScript")
    names = options.vm_names or [machine_name(script) for script in options.start_scripts]
    if len(names) != len(options.start_scripts):
        raise UsageError(f"{len(names)} names for {len(options.start_scripts)} start scripts")
    return _Configuration(
        vms={
            name: _Vm(name, script)
            for name, script in zip(names, options.start_scripts, strict=True)
        },
        test_script=str(options.test_script),
        vlans=[int(vlan) for vlan in options.vlans],
        containers=dict.fromkeys(options.container_names or options.container_start_scripts),
        global_timeout=float(options.global_timeout),
    )


def _seconds(timeout: float | str) -> float:
    """A time limit, which may be a duration as ISO 8601 writes it."""
    if not isinstance(timeout, str):
        return timeout
    match = _DURATION.fullmatch(timeout)
    if match is None:
        raise UsageError(f"global_timeout: {timeout!r} is no duration")
    units = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}
    return sum(float(match[unit] or 0) * seconds for unit, seconds in units.items())


def _test_name(script: Path) -> str:
    return "nixos-test" if script.stem.endswith("test-script") else script.stem


def _states() -> Path:
    """Where NixOS's driver has the machines' directories."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
