"""`attest-nixos-driver` with real start scripts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import junitparser
import pytest
import start_scripts

from tests.leftovers import Host

_DRIVER = str(Path(sys.executable).with_name("attest-nixos-driver"))

_PASSES = """\
start_all()
with subtest("they meet"):
    for each in machines:
        each.wait_for_unit("addresses.service")
    a.succeed("ping -c 2 -w 30 192.168.1.2")
    with subtest("inside"):
        assert b.name == "b" and vlan1.nr == 1
with subtest("files"):
    a.succeed("echo written | dd of=/dev/vdb conv=notrunc,fsync")
    a.copy_from_vm("/etc/hostname")
assert os.path.isfile(a.out_dir / "hostname")
a.shutdown()
"""

_FAILS = """\
with subtest("first"):
    machine.succeed("head -c 7 /dev/vdb | grep written")
with subtest("second"):
    machine.succeed("exit 7")
"""


@pytest.fixture
def host() -> Iterator[Host]:
    """The host, on which nothing must be left."""
    with tempfile.TemporaryDirectory(prefix="attest-") as scratch:  # short, for VDE's sockets
        yield Host(Path(scratch))


def _run(
    host: Host, out: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    command = [_DRIVER, "-o", str(out), *options]
    return subprocess.run(
        command, env={**host.environment, **environment}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def _verdicts(report: Path) -> dict[str, bool]:
    (suite,) = junitparser.JUnitXml.fromfile(str(report))
    return {case.name: not case.result for case in suite}


def test_a_test_that_passes_and_one_that_goes_on_with_its_state(host: Host, tmp_path: Path) -> None:
    scripts = [start_scripts.write(tmp_path, name, number, [1]) for number, name in
               enumerate(("a", "b"), start=1)]  # fmt: skip
    test = tmp_path / "test-script"
    test.write_text(_PASSES)
    out = tmp_path / "out"
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    result = _run(
        host, out, "--junit-xml", "report.xml", "-K",
        startScripts=" ".join(map(str, scripts)), vlans="1", testScript=str(test),
        XDG_RUNTIME_DIR=str(runtime),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert _verdicts(out / "report.xml") == {"they meet": True, "files": True, "nixos-test": True}
    host.await_nothing_left("after a run")

    configuration = tmp_path / "config.json"
    test.write_text(_FAILS)
    configuration.write_text(json.dumps({
        "vms": {"a": {"name": "a", "start_script": str(scripts[0])}}, "containers": {},
        "vlans": [1], "global_timeout": 600, "enable_ssh_backdoor": False,
        "test_script": str(test),
    }))  # fmt: skip
    result = _run(
        host, out, "--config", str(configuration), "--junit-xml", "report.xml",
        "--keep-machine-state", XDG_RUNTIME_DIR=str(runtime),
    )  # fmt: skip
    assert result.returncode == 1
    assert "command `exit 7` was required to succeed: exit code 7" in result.stderr
    assert _verdicts(out / "report.xml") == {"first": True, "second": False, "nixos-test": False}
    host.await_nothing_left("after a failure")


def test_a_driver_that_is_killed_leaves_nothing(host: Host, tmp_path: Path) -> None:
    script = start_scripts.write(tmp_path, "a", 1, [1])
    test = tmp_path / "test-script"
    test.write_text("a.forward_port(0, 80)\nprint('forwarded', flush=True)\na.sleep(1000)\n")
    with subprocess.Popen(
        [_DRIVER, "--start-scripts", str(script), "--vlans", "1", "-o", str(tmp_path), str(test)],
        env=host.environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        while driver.stdout.readline() != b"forwarded\n":
            assert driver.poll() is None
        driver.kill()
    host.await_nothing_left("after the driver was killed")


def test_a_path_that_is_too_long_for_a_network_is_said(host: Host, tmp_path: Path) -> None:
    scratch = tmp_path / ("long" * 25)
    scratch.mkdir()
    script = start_scripts.write(tmp_path, "a", 1, [1])
    test = tmp_path / "test-script"
    test.write_text("start_all()")
    options = [str(test), "--start-scripts", str(script), "--vlans", "1"]
    result = _run(host, tmp_path / "out", *options, TMPDIR=str(scratch))
    assert result.returncode == 3
    assert "set TMPDIR to a directory with a shorter path" in result.stderr
    host.await_nothing_left("after a refusal")
