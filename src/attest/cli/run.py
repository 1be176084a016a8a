"""`attest run`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from attest.cli.keeping import Keeping
from attest.cli.options import accel_option, programs, vmm_options
from attest.cluster import Cluster
from attest.errors import AttestError, CommandFailed, UsageError, WaitFailed
from attest.events import Event, EventLog, Kind
from attest.guest.console import plain_text
from attest.machine import Machine
from attest.manifest import load_manifest
from attest.report.journal import journal
from attest.report.live import view
from attest.report.traceback import script_lines
from attest.runs import new_run_directory
from attest.script import ScriptRun, namespace


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@accel_option
@vmm_options
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False),
    help="Directory for logs and artefacts [default: a new one in the cache].",
)  # fmt: skip
@click.option("--cold", is_flag=True, help="Boot each machine, instead of starting from snapshots.")
@click.option("--hugepages", is_flag=True, help="Take the machines' memory from huge pages.")
@click.option(
    "--snapshot-on-failure/--no-snapshot-on-failure", "keep", default=None,
    help="Keep the machines of a test that fails, for `attest resume` [default: ask, where there "
    "is a terminal].",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show consoles and the output of commands.")
def run(
    manifest: Path,
    accel: str,
    vmm: str,
    firecracker: str | None,
    cloud_hypervisor: str | None,
    out: Path | None,
    cold: bool,
    hugepages: bool,
    keep: bool | None,
    verbose: bool,
) -> None:
    """Run the test that MANIFEST (TOML or JSON) declares.

    \b
    Example: attest run examples/web/test.toml

    Exit code: 0 passed, 1 the test failed, 2 bad input, 3 this host cannot run it.
    """
    test = load_manifest(manifest)
    text, filename = test.script_text()
    try:
        script = ScriptRun(text, filename, test.timeout)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        click.echo(f"attest: {filename}{line}: {error.msg}", err=True)
        sys.exit(2)
    directory = out or new_run_directory(test.name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: cannot make {directory}: {error.strerror}") from None
    keeping = Keeping(keep, directory)
    events = EventLog()
    begun = time.monotonic()
    failure: BaseException | None = None
    machines: dict[str, Machine] = {}
    alarms: list[Event] = []
    events.subscribe(lambda event: alarms.append(event) if event.kind is Kind.ALARM else None)
    with (
        journal(events, directory / "events.jsonl"),
        view(events, list(test.nodes), verbose=verbose),
        events.span(Kind.RUN, test.name, started=events.started) as span,
    ):
        try:
            with Cluster(
                test,
                accelerator=accel,
                cold=cold,
                vmm=vmm,
                programs=programs(firecracker=firecracker, cloud_hypervisor=cloud_hypervisor),
                hugepages=hugepages,
                out_dir=directory,
                events=events,
                on_fatal=script.abort,
            ) as cluster:
                machines = cluster.machines
                with keeping.of(cluster):
                    script.run(namespace(cluster))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            failure = error
            span.data["error"] = str(error) or type(error).__name__
    seconds = time.monotonic() - begun
    for alarm in alarms:
        _say(f"{alarm.machine}: its kernel reported: {alarm.text}")
    if failure is None:
        _say(f"{test.name}: passed in {seconds:.1f} s")
        return
    _explain(failure, filename, machines)
    _say(f"{test.name}: FAILED in {seconds:.1f} s; logs: {directory}")
    keeping.settle(_say)
    sys.exit(_exit_code(failure))


def _explain(failure: BaseException, filename: str, machines: dict[str, Machine]) -> None:
    lines = ["", *script_lines(failure, filename)]
    lines += [str(failure) if isinstance(failure, AttestError) else repr(failure)]
    if isinstance(failure, CommandFailed):
        for name, output in (("stdout", failure.stdout), ("stderr", failure.stderr)):
            lines += [f"  {name} | {line}" for line in output.splitlines()[-200:]]
    if isinstance(failure, CommandFailed | WaitFailed) and (
        machine := machines.get(failure.machine)
    ):
        lines += [f"  last console lines of {machine.name}:"]
        lines += [f"  | {line}" for line in machine.console_lines(10)]
    lines += getattr(failure, "__notes__", [])
    for line in lines:
        _say(plain_text(line))


def _exit_code(failure: BaseException) -> int:
    if isinstance(failure, KeyboardInterrupt):
        return 130
    return failure.exit_code if isinstance(failure, AttestError) else 1


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more: the exit code still tells
        click.echo(line, err=True)
