"""What `attest-nixos-driver` makes of the options and the environment of NixOS's driver."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from attest.cli import nixos_driver
from attest.cli.testing import Options
from attest.errors import ManifestError, UsageError
from attest.manifest import Manifest


class _Ran:
    """What would have been run."""

    test: Manifest
    options: Options

    def __call__(self, test: Manifest, options: Options) -> int:
        self.test, self.options = test, options
        return 0


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Ran:
    """A driver's run in ``tmp_path``, with a script and two start scripts."""
    monkeypatch.chdir(tmp_path)
    run = _Ran()
    monkeypatch.setattr(nixos_driver, "run_test", run)
    (tmp_path / "test-script").write_text("start_all()")
    for name, vlans in (("web", (1, 2)), ("my-db", (2,))):
        script = tmp_path / f"run-{name}-vm"
        script.write_text("".join(f'sock="$QEMU_VDE_SOCKET_{vlan}"\n' for vlan in vlans))
        script.chmod(0o755)
    return run


def _run(arguments: Sequence[str] = (), environment: Mapping[str, str] = {}) -> None:
    assert nixos_driver._run(arguments, environment) == 0


def _check(ran: _Ran, tmp_path: Path) -> None:
    nodes = ran.test.nodes
    assert {name: node.start_command for name, node in nodes.items()} == {
        name: str(tmp_path / f"run-{name}-vm") for name in ("web", "my-db")
    }
    assert [nodes["web"].vlans, nodes["my-db"].vlans] == [[1, 2], [2]]
    assert ran.test.all_vlans() == [1, 2, 3]
    assert ran.test.script_text()[0].strip() == "start_all()"
    assert ran.test.timeout == 120
    assert ran.options.out == tmp_path


def test_the_environment_of_25_11(ran: _Ran, tmp_path: Path) -> None:
    _run(environment={
        "startScripts": f"{tmp_path}/run-web-vm {tmp_path}/run-my-db-vm", "vlans": "1 2 3",
        "globalTimeout": "120", "testScript": f"{tmp_path}/test-script",
    })  # fmt: skip
    _check(ran, tmp_path)
    assert not ran.options.interactive
    assert ran.options.cluster.state_dir is None
    assert ran.options.verbose


def test_the_options_of_25_11(ran: _Ran, tmp_path: Path) -> None:
    _run(["--start-scripts", "run-web-vm", "run-my-db-vm", "--vlans", "1", "2", "3",
          "--global-timeout", "120", "--output_directory", str(tmp_path), "-I", "-K",
          "--junit-xml", "report.xml", "test-script"])  # fmt: skip
    _check(ran, tmp_path)
    assert ran.options.interactive
    assert ran.options.cluster.state_dir is not None
    assert ran.options.junit == tmp_path / "report.xml"


def test_names_apart_from_start_scripts(ran: _Ran, tmp_path: Path) -> None:
    _run(["--vm-names", "web", "my-db", "--vm-start-scripts", "run-web-vm", "run-my-db-vm",
          "--container-names", "--container-start-scripts", "--vlans", "1", "2", "3",
          "--global-timeout", "120", "test-script"])  # fmt: skip
    _check(ran, tmp_path)
    with pytest.raises(UsageError, match="1 names for 2 start scripts"):
        _run(["--vm-names", "web", "--vm-start-scripts", "run-web-vm", "run-my-db-vm",
              "--vlans", "1", "--", "test-script"])  # fmt: skip


def _configuration(tmp_path: Path, **more: Any) -> str:
    path = tmp_path / "config.json"
    vms = {name: {"name": name, "start_script": f"{tmp_path}/run-{name}-vm"} for name in
           ("web", "my-db")}  # fmt: skip
    path.write_text(json.dumps({
        "vms": vms, "containers": {}, "vlans": [1, 2, 3], "global_timeout": 120,
        "enable_ssh_backdoor": False, "test_script": f"{tmp_path}/test-script", **more,
    }))  # fmt: skip
    return str(path)


@pytest.mark.parametrize("timeout", [120, "PT2M", "PT120S"])
def test_the_configuration_of_26_05(ran: _Ran, tmp_path: Path, timeout: float | str) -> None:
    _run(["--config", _configuration(tmp_path, global_timeout=timeout, display_viewers={}),
          "--log-level", "warning", "--keep-machine-state", "--no-interactive"])  # fmt: skip
    _check(ran, tmp_path)
    assert not ran.options.verbose


def test_what_is_not_offered_is_said(ran: _Ran, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="containers are not offered: box"):
        _run(["--config", _configuration(tmp_path, containers={"box": {}})])


def test_a_test_whose_script_makes_the_machines(ran: _Ran) -> None:
    _run(["test-script"])
    assert ran.test.nodes == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no script is given"),
        (["nonesuch"], "nonesuch: cannot read"),
        (["--config", "nonesuch.json"], r"nonesuch\.json: cannot read"),
        (["-o", "/nonesuch", "test-script"], "/nonesuch is no directory"),
    ],
)
def test_what_is_wrong_is_said(ran: _Ran, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _run(arguments)


def test_a_start_script_that_is_not_there(ran: _Ran) -> None:
    with pytest.raises(ManifestError, match=r"nodes\.gone\.start_command: cannot read"):
        _run(["test-script"], {"startScripts": "/run-gone-vm"})


def test_a_manifest_of_attests_own(ran: _Ran, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"name": "web", "timeout": 90, "nodes": {"web": {}}}))
    snapshots = tmp_path / "snapshots"
    _run(["--manifest", str(manifest), "--snapshots", str(snapshots), "test-script"])
    assert (ran.test.name, ran.test.timeout) == ("web", 90)
    assert ran.test.script_text()[0].strip() == "start_all()"
    assert ran.options.cluster.snapshots == snapshots


def test_a_manifest_whose_script_cannot_be_read(ran: _Ran, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"nodes": {"web": {}}}))
    with pytest.raises(UsageError, match=r"absent: cannot read the test's script"):
        _run(["--manifest", "manifest.json", "absent"])
