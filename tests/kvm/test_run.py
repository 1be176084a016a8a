"""`attest run` with KVM, as a user runs it, and what it leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kvm.conftest import Vmm
from tests.leftovers import Host

_WEB = """
start_all()

with subtest("the server serves"):
    server.succeed("mkdir /www; echo Hello from attest > /www/index.html")
    server.succeed("httpd -p 80 -h /www")
    server.wait_for_open_port(80)

with subtest("both clients fetch the page by the server's name"):
    pages = wait_all([alice, bob], lambda each: each.succeed("wget -q -O - http://server/"))
    assert pages == ["Hello from attest\\n"] * 2, pages

with subtest("the server's end is noticed"):
    server.shutdown()
    alice.fail("wget -q -T 5 -O - http://server/")
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "scratch").mkdir()
    return Host(tmp_path / "scratch")


def _command(vmm: Vmm, directory: Path, script: str, *names: str) -> list[str]:
    manifest = directory / "test.json"
    manifest.write_text(json.dumps({"nodes": vmm.nodes(*names), "script": script}))
    out = directory / "out"
    return [sys.executable, "-m", "attest", "run", *vmm.options, "-o", str(out), str(manifest)]


def test_the_web_example_in_small(vmm: Vmm, tmp_path: Path, host: Host) -> None:
    command = _command(vmm, tmp_path, _WEB, "server", "alice", "bob")
    result = subprocess.run(
        command, env=host.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path.name}: passed" in result.stderr
    host.await_nothing_left("after a test that passed")


@pytest.mark.short
def test_a_killed_driver_leaves_nothing(vmm: Vmm, tmp_path: Path, host: Host) -> None:
    script = "one.connect()\nprint('ready', flush=True)\none.sleep(1000)\n"
    command = [*_command(vmm, tmp_path, script, "one"), "--cold"]
    with subprocess.Popen(
        command, env=host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        assert len(host.left()) > 0
        driver.send_signal(signal.SIGKILL)
    host.await_nothing_left("after the driver was killed")
