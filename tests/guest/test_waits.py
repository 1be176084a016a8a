"""Waits that the agent watches inside a real machine."""

from __future__ import annotations

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import WaitFailed
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all

_LATER = "(sleep 0.3; {}) >/dev/null 2>&1 &"


def test_an_active_unit_is_seen_at_once(machine: Machine) -> None:
    machine.wait_for_unit("multi-user.target", timeout=30)
    machine.wait_for_unit("systemd-journald.service", timeout=30)


def test_a_unit_that_starts_later_is_waited_for(machine: Machine) -> None:
    machine.succeed(
        "systemctl stop later.service 2>/dev/null || true",
        "systemd-run --quiet --no-block --unit later --property Type=notify "
        "sh -c 'sleep 0.5; systemd-notify --ready; sleep 1000'",
    )
    machine.wait_for_unit("later.service", timeout=60)
    assert machine.get_unit_property("later.service", "ActiveState") == "active"
    machine.stop_job("later.service")


def test_a_failed_unit_ends_the_wait_with_its_journal(machine: Machine) -> None:
    # Of type oneshot, it is not active before it has failed.
    broken = "systemd-run --quiet --unit broken --property Type=oneshot"
    machine.execute(f"{broken} sh -c 'echo the reason; exit 9'")
    with pytest.raises(WaitFailed) as caught:
        machine.wait_for_unit("broken.service", timeout=60)
    assert caught.value.state["ActiveState"] == "failed"
    assert "the reason" in str(caught.value)
    machine.succeed("systemctl reset-failed broken.service")


def test_an_inactive_unit_ends_the_wait(machine: Machine) -> None:
    machine.succeed("printf '[Service]\\nExecStart=true\\n' > /run/systemd/system/idle.service")
    machine.succeed("systemctl daemon-reload")
    with pytest.raises(WaitFailed, match="inactive"):
        machine.wait_for_unit("idle.service", timeout=60)


def test_a_unit_that_does_not_exist_ends_the_wait(machine: Machine) -> None:
    with pytest.raises(WaitFailed, match=r"nonesuch\.service"):
        machine.wait_for_unit("nonesuch.service", timeout=60)


def test_ports_open_and_close(machine: Machine) -> None:
    server = machine.spawn("exec nc -lk 127.0.0.1 7777")
    machine.wait_for_open_port(7777, timeout=30)
    server.cancel()
    machine.wait_for_closed_port(7777, timeout=30)
    with pytest.raises(WaitFailed, match="7777"):
        machine.wait_for_open_port(7777, timeout=0.5)


def test_a_port_is_open_at_any_address_of_a_name(debian: Cluster) -> None:
    client, server = debian["a"], debian["b"]
    server.succeed("ip address add 192.168.1.77/24 dev eth0")
    first = server.spawn("exec nc -lk 192.168.1.77 7778")
    client.succeed(f"cp /etc/hosts /tmp/hosts; printf '{server.ip()} b2\n192.168.1.77 b2\n"
                   "192.168.1.99 b3\n192.168.1.77 b3\n' >> /etc/hosts")  # fmt: skip
    client.wait_for_open_port(7778, "b2", timeout=30)
    client.wait_for_open_port(7778, "b3", timeout=30, attempt_timeout=0.3)  # nobody is at its first
    with pytest.raises(WaitFailed, match="port 7778 of b2 did not close in 0 s: open"):
        client.wait_for_closed_port(7778, "b2", timeout=0)
    first.cancel()
    client.wait_for_closed_port(7778, "b2", timeout=30)
    local = server.succeed("ip -6 -o address show dev eth0 scope link").split()[3].split("/")[0]
    second = server.spawn(f"exec nc -lk {local}%eth0 7778")
    client.wait_for_open_port(7778, f"{local}%eth0", timeout=30)
    second.cancel()
    client.succeed("cat /tmp/hosts > /etc/hosts")
    server.succeed("ip address delete 192.168.1.77/24 dev eth0")


def test_ports_of_tiny_that_listen(tiny: Machine) -> None:
    server = tiny.spawn("exec nc -l -p 7779")
    tiny.wait_for_listening_port(7779, timeout=30)
    tiny.wait_for_listening_port(7779, "127.0.0.1", timeout=0)
    with pytest.raises(WaitFailed, match="nothing listened on UDP port 7779 in 0 s"):
        tiny.wait_for_listening_port(7779, protocol="udp", timeout=0)
    server.cancel()
    with pytest.raises(WaitFailed, match="did not finish: this guest's init is not systemd"):
        tiny.wait_until_unit_finishes("x")


def test_a_file_that_appears_later_is_waited_for(machine: Machine) -> None:
    machine.succeed(
        "rm -rf /tmp/deep", _LATER.format("mkdir -p /tmp/deep/er; touch /tmp/deep/er/f")
    )
    machine.wait_for_file("/tmp/deep/er/f", timeout=30)
    machine.wait_for_file("/tmp/deep/*/f", timeout=30)


def test_a_unix_socket_is_waited_for(machine: Machine) -> None:
    server = machine.spawn("sleep 0.3; exec nc -lkU /tmp/sock")
    machine.wait_for_open_unix_socket("/tmp/sock", timeout=30)
    server.cancel()


def test_a_wait_is_ended_by_a_failure_elsewhere(machine: Machine) -> None:
    def call(what: str) -> None:
        if what == "wait":
            machine.wait_for_file("/never")
        else:
            machine.succeed("exit 6")

    with pytest.raises(Exception, match="exit 6"):
        wait_all(["wait", "fail"], call)


def test_console_text_is_found(machine: Machine) -> None:
    machine.succeed("echo needle-in-console > /dev/ttyS0")
    machine.wait_for_console_text("needle-in-con.*", timeout=30)
