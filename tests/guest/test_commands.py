"""Commands in a real machine: what the NixOS driver's methods promise."""

from __future__ import annotations

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import CommandFailed, WaitFailed
from attest.events import Event, Kind
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all


def test_succeed_returns_all_outputs_joined(machine: Machine) -> None:
    assert machine.succeed("echo one", "echo two >&2; echo three") == "one\nthree\n"


def test_succeed_raises_with_what_the_command_said(machine: Machine) -> None:
    machine.succeed("echo on-the-console > /dev/ttyS0")
    machine.wait_for_console_text("on-the-console")
    with pytest.raises(CommandFailed) as caught:
        machine.succeed("echo out; echo err >&2; exit 3")
    assert (caught.value.status, caught.value.stdout, caught.value.stderr) == (3, "out\n", "err\n")
    assert str(caught.value).startswith(
        "a: command `echo out; echo err >&2; exit 3` was required to succeed: exit code 3\n"
        "  stdout:\n  | out\n"
        "  stderr:\n  | err\n"
        "  last console lines of a:\n  | "
    )
    assert "\n  | on-the-console" in str(caught.value)


def test_an_error_shows_the_end_of_the_output_as_plain_text(machine: Machine) -> None:
    with pytest.raises(CommandFailed) as caught:
        machine.succeed("seq 1000; printf '\\033[31mred\\033[0m' >&2; false")
    assert caught.value.stdout.startswith("1\n2\n")
    assert "\n  | […]\n  | 961\n  | 962\n" in str(caught.value)
    assert "\n  stderr:\n  | red" in str(caught.value)


def test_a_wait_that_failed_shows_the_console(machine: Machine) -> None:
    machine.succeed("echo on-the-console > /dev/ttyS0")
    machine.wait_for_console_text("on-the-console")
    with pytest.raises(WaitFailed) as caught:
        machine.wait_for_open_port(1, timeout=0.1)
    assert "last console lines of a:\n" in str(caught.value)
    assert "on-the-console" in str(caught.value)
    assert "\n" not in caught.value.message


def test_fail_is_its_opposite(machine: Machine) -> None:
    assert machine.fail("echo seen; false") == "seen\n"
    with pytest.raises(CommandFailed, match="to fail"):
        machine.fail("true")


@pytest.mark.parametrize(
    ("command", "status"),
    [("false | true", 1), ("echo $unset_name", 1), ("false; echo not reached", 1), ("exit 0", 0)],
)
def test_commands_run_under_strict_bash(machine: Machine, command: str, status: int) -> None:
    assert machine.execute(command)[0] == status


def test_execute_has_the_four_forms(machine: Machine) -> None:
    assert machine.execute("echo x; exit 7") == (7, "x\n")
    assert machine.execute("echo x; exit 7", check_return=False) == (-1, "x\n")
    assert machine.execute("touch /tmp/done", check_output=False) == (-2, "")
    machine.wait_for_file("/tmp/done")
    assert machine.execute("echo x; sleep 60", timeout=1)[0] == 124


def test_run_gives_input_of_any_size(machine: Machine) -> None:
    assert machine.run("cat", stdin="häh\n").stdout == "häh\n"
    assert machine.run(["wc", "-c"], stdin=bytes(3_000_000)).stdout == "3000000\n"
    assert machine.run("echo unread", stdin=bytes(3_000_000)).stdout == "unread\n"


def test_run_is_reported(debian: Cluster) -> None:
    told: list[Event] = []
    debian.events.subscribe(told.append)
    debian["a"].run(["echo", "it's"])
    debian.events.unsubscribe(told.append)
    begin, end = (event for event in told if event.kind is Kind.COMMAND)
    assert (begin.machine, begin.text) == ("a", """echo 'it'"'"'s'""")
    assert (end.data["status"], end.data["stdout"]) == (0, "it's\n")


def test_a_command_waits_for_its_background_processes_to_close_the_output(machine: Machine) -> None:
    assert machine.succeed("(sleep 0.3; echo late) & echo early") == "early\nlate\n"


def test_output_is_decoded_whatever_it_is(machine: Machine) -> None:
    assert machine.succeed(r"printf 'a\xffb\n'") == "a\ufffdb\n"


def test_a_hundred_commands_at_once_keep_their_outputs_apart(machine: Machine) -> None:
    outputs = wait_all(range(100), lambda n: machine.succeed(f"echo {n}; echo {n} >&2"))
    assert outputs == [f"{n}\n" for n in range(100)]


def test_a_failure_elsewhere_ends_a_command_at_once(machine: Machine) -> None:
    def call(command: str) -> None:
        machine.succeed(command)

    with pytest.raises(CommandFailed, match="exit 5"):
        wait_all(["sleep 1000", "sleep 0.2; exit 5"], call)
    machine.wait_until_fails("pgrep -x sleep", timeout=30)


def test_wait_until_succeeds_returns_the_output_of_the_try_that_did(machine: Machine) -> None:
    machine.succeed("rm -f /tmp/count")
    command = "echo x >>/tmp/count; test $(wc -l </tmp/count) -ge 3; cat /tmp/count"
    assert machine.wait_until_succeeds(command) == "x\nx\nx\n"


def test_wait_until_succeeds_tells_the_last_try(machine: Machine) -> None:
    with pytest.raises(WaitFailed, match=r"did not succeed in 1 s: exit code 4\n.*:\n  \| why"):
        machine.wait_until_succeeds("echo why; exit 4", timeout=1)


def test_wait_until_fails(machine: Machine) -> None:
    machine.succeed("touch /tmp/there; (sleep 0.3; rm /tmp/there) >/dev/null 2>&1 &")
    machine.wait_until_fails("test -e /tmp/there")


def test_an_emulated_guest_is_spared_what_is_slow(machine: Machine) -> None:
    machine.fail("grep -wE 'erms|fsrm|fzrm|fsrs|fsrc|la57|pku|smap' /proc/cpuinfo")
    machine.succeed("grep Vulnerable /sys/devices/system/cpu/vulnerabilities/spectre_v2")
    machine.succeed("dmesg | grep 'mem auto-init: .*heap alloc:off'")
