"""Commands in a real machine: what the NixOS driver's methods promise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import CommandFailed, ConditionFailed, WaitFailed
from attest.events import Event, EventLog, Kind
from attest.machine.conditions import PollingCondition
from attest.machine.machine import Machine
from attest.support.concurrency import call_in_thread, wait_all


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
    assert "\n  | [… 960 lines before …]\n  | 961\n  | 962\n" in str(caught.value)
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


@contextmanager
def told(events: EventLog, kind: Kind) -> Iterator[list[Event]]:
    """The events of a kind that happen in the ``with`` block."""
    found: list[Event] = []

    def take(event: Event) -> None:
        if event.kind is kind:
            found.append(event)

    events.subscribe(take)
    yield found
    events.unsubscribe(take)


def test_who_holds_a_commands_output_is_told_and_in_the_error(
    debian: Cluster, machine: Machine
) -> None:
    held = r"its shell has exited with 0, but process \d+ \(sleep\) holds its output open"
    calls: list[Callable[[], object]] = [
        lambda: machine.succeed("sleep 600 & echo started", timeout=5),
        lambda: machine.run("sleep 600 & echo started", timeout=1),
        lambda: machine.wait_until_succeeds("sleep 600 & echo started", timeout=1),
    ]
    with told(debian.events, Kind.WARNING) as warnings:
        assert machine.execute("sleep 600 & echo started", timeout=1) == (124, "started\n")
        for call in calls:
            with pytest.raises((CommandFailed, WaitFailed)) as caught:
                call()
            assert re.search(rf"exit code 124 \(time limit\): {held}\n", str(caught.value))
            assert re.search(r"\n  \| started\n", str(caught.value))
        assert machine.fail("sleep 600 & echo started", timeout=1) == "started\n"
        machine.wait_until_fails("sleep 600 & echo started", timeout=1)
        machine.succeed("sleep 600 >/dev/null & echo started")  # it may keep the errors
    expected = rf"`sleep 600 & echo started`: {held}"
    assert [bool(re.fullmatch(expected, each.text)) for each in warnings] == [True] * 6
    machine.succeed("pkill sleep")


def test_an_exit_code_of_its_own_is_no_time_limit(machine: Machine) -> None:
    with pytest.raises(CommandFailed) as caught:
        machine.succeed("exit 124")
    assert "exit code 124" in str(caught.value)
    assert "time limit" not in str(caught.value)


def test_output_is_told_while_the_command_runs(debian: Cluster, machine: Machine) -> None:
    machine.succeed("rm -f /tmp/go")

    def let_go(event: Event) -> None:
        """End the command when its first lines have been told."""
        if event.kind is Kind.OUTPUT and event.text == "one\ntwo":
            call_in_thread(lambda: machine.succeed("touch /tmp/go"), "let go")

    debian.events.subscribe(let_go)
    with told(debian.events, Kind.OUTPUT) as outputs, told(debian.events, Kind.COMMAND) as commands:
        printed = machine.succeed(
            "echo one; echo two; printf part; while ! test -e /tmp/go; do sleep 0.1; done;"
            " printf ' and rest'; echo err >&2"
        )
    debian.events.unsubscribe(let_go)
    assert printed == "one\ntwo\npart and rest"
    said = {(each.text, each.data["stream"]) for each in outputs}
    assert said == {("one\ntwo", "stdout"), ("part and rest", "stdout"), ("err", "stderr")}
    begun = next(each for each in commands if each.text.startswith("echo one"))
    assert {each.parent for each in outputs} == {begun.span}
    end = next(each for each in commands if each.span == begun.span and each.phase == "end")
    assert (end.data["stdout"], end.data["stderr"]) == (printed, "err\n")


def test_what_a_command_printed_that_was_interrupted_is_in_the_log(
    debian: Cluster, machine: Machine
) -> None:
    condition = PollingCondition(
        lambda: machine.execute("test -e /tmp/printed")[0] != 0, debian.events, 0.1, "unprinted"
    )
    machine.succeed("rm -f /tmp/printed")
    with (
        told(debian.events, Kind.COMMAND) as commands,
        pytest.raises(ConditionFailed),
        condition,
    ):
        machine.succeed("echo begun; sleep 0.5; touch /tmp/printed; sleep 600")
    end = next(
        each for each in commands if each.text.startswith("echo begun") and each.phase == "end"
    )
    assert end.data["stdout"] == "begun\n"


def test_a_failure_shows_a_part_of_what_is_long_and_says_where_all_is(machine: Machine) -> None:
    command = "head -c 3000000 /dev/zero | tr '\\0' x; seq 100000 >&2; exit 3 #" + "y" * 100_000
    with pytest.raises(CommandFailed) as caught:
        machine.succeed(command)
    error = caught.value
    assert (len(error.stdout), len(error.stderr), error.command) == (3_000_000, 588_895, command)
    assert len(str(error)) < 20_000
    assert "[… 2,995,904 characters before …]" in str(error)
    assert "[… 99,960 lines before …]" in str(error)
    assert re.search(r"#y+\[… 99,\d+ characters …\]y+` was required to succeed", str(error))
    assert f"all that it printed: {error.log}" in str(error)
    whole = Path(error.log).read_text()
    assert whole.startswith(f"$ {command}\n")
    assert whole.endswith(f"x\nstderr:\n{error.stderr}\n")


def test_files_with_whole_outputs_stay_few(machine: Machine) -> None:
    for _ in range(12):
        machine.run("seq 1000", check=False)
        with pytest.raises(CommandFailed) as caught:
            machine.succeed("seq 1000; false")
    files = list(machine.out_dir.glob(f"command-{machine.name}-*.log"))
    assert len(files) == 10
    assert Path(caught.value.log) in files
