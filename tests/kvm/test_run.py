"""`attest run` with KVM, as a user runs it, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kvm.conftest import THERE, Vmm
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


@pytest.mark.skipif("firecracker" not in THERE, reason="give it by ATTEST_FIRECRACKER")
def test_firecracker_1_16_0_boots_without_snapshots(tmp_path: Path, host: Host) -> None:
    """By what it calls itself: what runs here is another one, which could."""
    real = os.environ["ATTEST_FIRECRACKER"]
    called = tmp_path / "firecracker"
    called.write_text(
        f"#!/bin/sh\n[ $# = 1 ] && [ $1 = --version ] && exec echo Firecracker v1.16.0\n"
        f'exec {real} "$@"\n'
    )
    called.chmod(0o755)
    script = "one.succeed('true')\none.snapshot('fresh')\n"
    result = subprocess.run(
        _command(Vmm("firecracker"), tmp_path, script, "one"),
        env={**host.environment, "ATTEST_FIRECRACKER": str(called)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    why = f"guests do not answer after a restore by Firecracker 1.16.0 ({called}): it needs 1.16.1"
    assert f"it boots without a snapshot: {why}" in result.stderr, result.stderr
    assert f"one: cannot be saved: {why}" in result.stderr
    assert result.returncode == 1
