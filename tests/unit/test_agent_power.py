"""POWER, and the agent as PID 1: in a PID namespace, where reboot(2) ends only that."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent_client import (
    DONE,
    FAILED,
    POWER,
    AgentClient,
    SessionEnded,
    agent_socket,
    await_socket,
    client,
    root_only,
    sanitized_agent,
    u32,
)

__all__ = ["agent_socket", "client"]

OFF, REBOOT, OFF_NOW, REBOOT_NOW = range(1, 5)
LOOP = "echo ready; while :; do sleep 0.01; done"


@contextlib.contextmanager
def init(
    path: Path, kernel_arguments: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], AgentClient]]:
    """An agent that is PID 1 of a PID namespace, and a session with it."""
    cmdline = path.with_name("cmdline")
    cmdline.write_text(kernel_arguments)
    command: list[str | Path] = [
        "unshare",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        'mount --bind "$1" /proc/cmdline && shift && exec "$@"',
        "sh",
        cmdline,
        sanitized_agent(),
        "--unix",
        path,
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            await_socket(path, process)
            with AgentClient(path) as client:
                assert client.welcome[3] == "agent"
                yield process, client
        finally:
            process.kill()


def await_end(client: AgentClient) -> None:
    with contextlib.suppress(SessionEnded):
        client.drain()


@root_only
@pytest.mark.parametrize(
    ("action", "signal_number"),
    # What the parent of a PID namespace's init is told, reboot(2) says.
    [
        (OFF, signal.SIGINT),
        (REBOOT, signal.SIGHUP),
        (OFF_NOW, signal.SIGINT),
        (REBOOT_NOW, signal.SIGHUP),
    ],
)
def test_power(tmp_path: Path, action: int, signal_number: int) -> None:
    with init(tmp_path / "agent") as (process, client):
        result, _ = client.run(POWER, [(1, u32(action))])
        assert result.status == DONE
        await_end(client)
        # unshare ends as its child did.
        assert process.wait(30) in (-signal_number, 128 + signal_number)


@root_only
@pytest.mark.parametrize(
    ("arguments", "signal_number"),
    [
        ("quiet attest.poweroff=reboot panic=1", signal.SIGHUP),
        ("attest.poweroff=reboots xattest.poweroff=reboot attest.poweroff", signal.SIGINT),
    ],
)
@pytest.mark.parametrize("action", [OFF, OFF_NOW])
def test_a_power_off_that_is_to_be_a_reboot(
    tmp_path: Path, action: int, arguments: str, signal_number: int
) -> None:
    with init(tmp_path / "agent", arguments) as (process, client):
        client.run(POWER, [(1, u32(action))])
        await_end(client)
        assert process.wait(30) in (-signal_number, 128 + signal_number)


@root_only
def test_processes_may_finish_before_the_power_goes(tmp_path: Path) -> None:
    with init(tmp_path / "agent") as (process, client):
        script = f"trap 'echo clean >{tmp_path}/end; exit' TERM; {LOOP}"
        stream = client.open(1, [(1, script.encode())])
        while not stream.stdout:
            client.handle()
        client.open(POWER, [(1, u32(OFF))])
        await_end(client)
        process.wait(30)
    assert (tmp_path / "end").read_text() == "clean\n"


@root_only
def test_power_at_once_kills(tmp_path: Path) -> None:
    with init(tmp_path / "agent") as (process, client):
        script = f"trap 'echo clean >{tmp_path}/end' TERM; {LOOP}"
        stream = client.open(1, [(1, script.encode())])
        while not stream.stdout:
            client.handle()
        client.open(POWER, [(1, u32(OFF_NOW))])
        await_end(client)
        process.wait(30)
    assert not (tmp_path / "end").exists()


@root_only
@pytest.mark.parametrize(
    ("name", "signal_number"),
    # As busybox' init takes them; what they become is as above.
    [
        ("TERM", signal.SIGHUP),
        ("INT", signal.SIGHUP),
        ("PWR", signal.SIGINT),
        ("USR1", signal.SIGINT),
        ("USR2", signal.SIGINT),
    ],
)
def test_signals_end_the_guest(tmp_path: Path, name: str, signal_number: int) -> None:
    with init(tmp_path / "agent") as (process, client):
        client.open(1, [(1, f"kill -{name} 1".encode())])
        await_end(client)
        assert process.wait(30) in (-signal_number, 128 + signal_number)


@root_only
def test_orphans_are_reaped(tmp_path: Path) -> None:
    with init(tmp_path / "agent") as (_, client):
        client.sh("for i in $(seq 20); do setsid -f sleep 0.05 >/dev/null 2>&1; done; sleep 0.2")
        _, stream = client.sh("grep -l '^State:.Z' /proc/[0-9]*/status")
        assert stream.stdout == b""


def test_an_unknown_action(client: AgentClient) -> None:
    result, _ = client.run(POWER, [(1, u32(9))])
    assert (result.status, result.errno) == (FAILED, 22)
    result, _ = client.run(POWER, [])
    assert (result.status, result.errno) == (FAILED, 22)


def test_an_init_that_is_not_known(client: AgentClient) -> None:
    if client.welcome[3] == "systemd":
        pytest.skip("this host has systemd")
    result, _ = client.run(POWER, [(1, u32(OFF))])
    assert result.status == FAILED
    assert result.errno == (95 if os.geteuid() == 0 else 1)
