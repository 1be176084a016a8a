"""EXEC: commands, their surroundings, input, output and end."""

import grp
import os
import pwd
import signal
import struct
import time
from pathlib import Path

import pytest

from tests.unit.agent_client import (
    CANCEL,
    CANCELLED,
    DONE,
    EXEC,
    EXITED,
    FAILED,
    KILLED,
    RESIZE,
    TIMED_OUT,
    WAIT,
    AgentClient,
    Fields,
    Stream,
    agent_socket,
    client,
    frame,
    root_only,
    running_agent,
    u32,
    u64,
)

__all__ = ["agent_socket", "client"]

COMMAND, ARGUMENT, DIRECTORY, USER, ENVIRONMENT, LIMIT, TERMINAL, FLAGS = range(1, 9)
INPUT: tuple[int, bytes] = (FLAGS, u32(1))
LEAVE: tuple[int, bytes] = (FLAGS, u32(2))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def argv(*words: str) -> Fields:
    return [(ARGUMENT, word.encode()) for word in words]


def await_output(client: AgentClient, stream: Stream, text: bytes) -> None:
    while text not in stream.stdout:
        client.handle()


def await_end(client: AgentClient, pid: bytes) -> None:
    assert client.run(WAIT, [(1, u32(7)), (2, pid)])[0].status == DONE


def test_output_and_exit_code(client: AgentClient) -> None:
    result, stream = client.sh("echo out; echo err >&2; exit 3")
    assert (result.status, result.code) == (EXITED, 3)
    assert (stream.stdout, stream.stderr) == (b"out\n", b"err\n")
    assert stream.ended == {0, 1}


def test_signal(client: AgentClient) -> None:
    result, _ = client.sh("kill -SEGV $$")
    assert (result.status, result.code) == (KILLED, signal.SIGSEGV)


def test_arguments_are_not_for_a_shell(client: AgentClient) -> None:
    result, stream = client.run(EXEC, argv("printf", "%s|", "a b", "", "$HOME", "*"))
    assert result.code == 0
    assert stream.stdout == b"a b||$HOME|*|"


def test_a_missing_program(client: AgentClient) -> None:
    result, _ = client.run(EXEC, argv("no-such-program"))
    assert (result.status, result.errno) == (FAILED, 2)
    assert "no-such-program" in result.message


def test_a_program_that_may_not_be_executed(client: AgentClient) -> None:
    result, _ = client.run(EXEC, argv("/etc/passwd"))
    assert (result.status, result.errno) == (FAILED, 13)


@pytest.mark.parametrize("fields", [[], [(COMMAND, b"true"), (ARGUMENT, b"true")]])
def test_command_and_arguments_exclude_each_other(client: AgentClient, fields: Fields) -> None:
    result, _ = client.run(EXEC, fields)
    assert (result.status, result.errno) == (FAILED, 22)


def test_environment(client: AgentClient) -> None:
    _, stream = client.run(EXEC, argv("env"))
    variables = dict(line.split("=", 1) for line in stream.stdout.decode().splitlines())
    assert variables.pop("SHELL").startswith("/")
    assert variables.pop("DISPLAY") == ":0.0"
    assert variables == {"PATH": PATH, "HOME": "/root", "USER": "root", "LOGNAME": "root"}


def test_environment_is_added_and_replaced(client: AgentClient) -> None:
    more = [(ENVIRONMENT, text) for text in (b"A=1=2", b"HOME=/h", b"EMPTY=", b"A=3")]
    _, stream = client.run(EXEC, [*argv("env"), *more])
    lines = stream.stdout.decode().splitlines()
    assert {"A=3", "HOME=/h", "EMPTY="} <= set(lines)
    assert len(lines) == 8


def test_working_directory(client: AgentClient, tmp_path: Path) -> None:
    assert client.sh("pwd")[1].stdout == b"/\n"
    _, stream = client.sh("pwd", (DIRECTORY, bytes(tmp_path)))
    assert stream.stdout.decode().strip() == str(tmp_path)
    result, _ = client.sh("pwd", (DIRECTORY, b"/no/such"))
    assert (result.status, result.errno) == (FAILED, 2)
    assert "/no/such" in result.message


def test_descriptors_signals_and_limits_are_fresh(client: AgentClient) -> None:
    _, stream = client.run(EXEC, argv("ls", "/proc/self/fd"))
    assert stream.stdout.split() == [b"0", b"1", b"2", b"3"]
    _, stream = client.run(EXEC, argv("cat", "/proc/self/status"))
    signals = [line.split() for line in stream.stdout.splitlines() if line.startswith(b"Sig")]
    assert {mask for name, mask in signals if name != b"SigQ:"} == {b"0" * 16}
    _, stream = client.run(EXEC, argv("cat", "/proc/self/oom_score_adj", "/proc/self/limits"))
    own = Path("/proc/self/limits").read_text()
    (files,) = [line for line in own.splitlines() if line.startswith("Max open files")]
    assert stream.stdout.decode().splitlines()[0] == "0"
    assert files in stream.stdout.decode()


def test_each_command_leads_a_session(client: AgentClient) -> None:
    _, stream = client.run(EXEC, argv("cat", "/proc/self/stat"))
    pid, _, _, _, group, session, *_ = stream.stdout.split()
    assert pid == group == session


@root_only
def test_user(client: AgentClient) -> None:
    user = pwd.getpwnam("nobody")
    _, stream = client.sh("id; pwd; echo $HOME $USER $LOGNAME $SHELL", (USER, b"nobody"))
    ids, directory, variables = stream.stdout.decode().splitlines()
    assert f"uid={user.pw_uid}(nobody)" in ids
    assert directory == "/"
    assert variables == f"{user.pw_dir} nobody nobody {user.pw_shell}"


@root_only
def test_user_has_its_groups(client: AgentClient) -> None:
    expected = sorted(os.getgrouplist("root", 0))
    _, stream = client.sh("id -G", (USER, b"root"))
    assert sorted(map(int, stream.stdout.split())) == expected
    many = [group for group in grp.getgrall() if group.gr_mem]
    for group in many[:1]:
        _, stream = client.sh("id -Gn", (USER, group.gr_mem[0].encode()))
        assert group.gr_name in stream.stdout.decode().split()


@root_only
def test_user_by_number(client: AgentClient) -> None:
    _, stream = client.sh("id -u; id -g; id -G", (USER, b"54321"))
    assert stream.stdout.split() == [b"54321"] * 3


def test_a_missing_user(client: AgentClient) -> None:
    result, _ = client.sh("id", (USER, b"no-such-user"))
    assert (result.status, result.errno) == (FAILED, 22)
    assert "no such user" in result.message


def test_input_is_empty_unless_it_follows(client: AgentClient) -> None:
    assert client.sh("cat; echo over")[1].stdout == b"over\n"


def test_input(client: AgentClient) -> None:
    sent = os.urandom(1_000_000)
    stream = client.open(EXEC, [(COMMAND, b"cat"), INPUT])
    client.data(stream, sent)
    client.eof(stream)
    assert client.finish(stream).code == 0
    assert stream.stdout == sent


def test_input_that_nobody_reads_is_used_up(client: AgentClient) -> None:
    stream = client.open(EXEC, [(COMMAND, b"exec <&-; echo on; sleep 0.2"), INPUT])
    await_output(client, stream, b"on\n")
    client.data(stream, bytes(2_000_000))
    assert client.finish(stream).code == 0


def test_output_is_streamed(client: AgentClient) -> None:
    stream = client.open(EXEC, [(COMMAND, b"echo ready; read line; echo got $line"), INPUT])
    await_output(client, stream, b"ready\n")
    client.data(stream, b"this\n")
    assert client.finish(stream).code == 0
    assert stream.stdout == b"ready\ngot this\n"


def test_much_output_on_both_channels(client: AgentClient) -> None:
    _, stream = client.sh("head -c 2000000 /dev/zero & head -c 1500000 /dev/zero >&2; wait")
    assert (len(stream.stdout), len(stream.stderr)) == (2_000_000, 1_500_000)


def test_the_result_waits_for_background_output(client: AgentClient) -> None:
    _, stream = client.sh("(sleep 0.3; echo late) & echo early")
    assert stream.stdout == b"early\nlate\n"


def test_who_holds_the_output_of_a_command_that_has_exited(client: AgentClient) -> None:
    client.give_windows = False
    untaken = client.open(EXEC, [(COMMAND, b"head -c 400000 /dev/zero & exit")])
    many = b"for i in 1 2 3 4 5 6 7; do sleep 60 2>&- & echo $!; done; sleep 60 >&- &"
    terminal = (TERMINAL, struct.pack("<HH", 24, 80))
    commands: dict[str, Fields] = {
        "its shell has exited with 3": [(COMMAND, b"sleep 60 & echo $!; exit 3")],
        "its shell was killed by signal 9": [(COMMAND, b"sleep 60 & echo $!; kill -9 $$")],
        "its shell has exited with 0": [(COMMAND, many), (FLAGS, u32(4))],
        "it has exited with 0": argv("sh", "-c", "sleep 60 & echo $!"),
        "its shell has exited with 1": [
            (COMMAND, b"trap '' HUP; sleep 60 & echo $!; false"),
            terminal,
        ],
    }
    streams = {end: client.open(EXEC, fields) for end, fields in commands.items()}
    while not all(stream.notes for stream in streams.values()):
        client.handle()
    for end, stream in streams.items():
        one, *more = sorted(stream.stdout.decode().split(), key=int)
        expected = f"{end}, but process {one} (sleep) holds its output open"
        if more:
            named = ", ".join(f"{pid} (sleep)" for pid in (one, *more[:4]))
            expected = f"{end}, but processes {named} and 2 more hold its output open"
        assert stream.notes == [expected]
    assert not untaken.notes, "its output is there for the host to take"
    for stream in (untaken, *streams.values()):
        client.cancel(stream)
        assert client.finish(stream).status == CANCELLED


def test_a_time_limit_tells_who_held_the_output(client: AgentClient) -> None:
    result, stream = client.sh("sleep 60 & echo $!", (LIMIT, u64(200)))
    pid = stream.stdout.decode().strip()
    expected = f"its shell has exited with 0, but process {pid} (sleep) holds its output open"
    assert (result.status, result.message) == (TIMED_OUT, expected)
    assert not stream.notes
    assert client.sh("sleep 60", (LIMIT, u64(200)))[0].message == ""


def test_background_processes_that_closed_their_output_live_on(client: AgentClient) -> None:
    result, stream = client.sh("sleep 1000 >/dev/null 2>&1 & echo $!")
    assert result.code == 0
    pid = stream.stdout.strip()
    assert client.sh(f"kill {pid.decode()}")[0].code == 0
    await_end(client, pid)


def test_background_processes_may_keep_the_errors_open(client: AgentClient) -> None:
    result, stream = client.sh("sleep 1000 >&2 & echo $!; echo told >&2")
    assert (result.code, stream.stderr) == (0, b"told\n")
    os.kill(int(stream.stdout), signal.SIGKILL)


def test_background_output_may_be_left(client: AgentClient) -> None:
    stream = client.open(EXEC, [(COMMAND, b"sleep 1000 & echo $!; exit 4"), LEAVE])
    result = client.finish(stream)
    assert (result.status, result.code) == (EXITED, 4)
    os.kill(int(stream.stdout), signal.SIGKILL)


def test_background_output_may_be_left_while_more_comes(client: AgentClient) -> None:
    command = b"(while echo y; do :; done) 2>/dev/null & echo $! >&2; sleep 0.1"
    stream = client.open(EXEC, [(COMMAND, command), LEAVE])
    assert client.finish(stream).code == 0
    await_end(client, stream.stderr.strip())  # by SIGPIPE


TREE = b"""
sleep 1001 & echo $!
(sleep 1002 & echo $!; exec sleep 1003) & echo $!
setsid -f true
echo ready; wait
"""


@pytest.mark.parametrize("end", ["cancel", "limit"])
def test_the_whole_session_is_killed(client: AgentClient, end: str) -> None:
    fields: Fields = [(COMMAND, b"set -m;" + TREE)]  # job control: process groups of their own
    if end == "limit":
        fields.append((LIMIT, u64(500)))
    stream = client.open(EXEC, fields)
    await_output(client, stream, b"ready\n")
    if end == "cancel":
        client.cancel(stream)
    result = client.finish(stream)
    assert result.status == (CANCELLED if end == "cancel" else TIMED_OUT)
    assert result.code is None
    for pid in stream.stdout.split()[:-1]:
        await_end(client, pid)


def test_a_fork_storm_is_killed(client: AgentClient) -> None:
    storm = "f() { sleep 0.01; f & }; echo ready; f; f; wait; sleep 1000"
    stream = client.open(EXEC, [(COMMAND, storm.encode())])
    await_output(client, stream, b"ready\n")
    client.cancel(stream)
    assert client.finish(stream).status == CANCELLED


def test_output_before_the_time_limit_is_kept(client: AgentClient) -> None:
    result, stream = client.sh("echo partial; sleep 1000", (LIMIT, u64(300)))
    assert result.status == TIMED_OUT
    assert stream.stdout == b"partial\n"
    assert stream.ended == set()


def test_a_limit_that_is_not_reached(client: AgentClient) -> None:
    assert client.sh("exit 2", (LIMIT, u64(2**64 - 1)))[0].code == 2


def test_cancel_after_the_command_has_exited(client: AgentClient) -> None:
    stream = client.open(EXEC, [(COMMAND, b"sleep 1000 & echo $!")])
    await_output(client, stream, b"\n")
    time.sleep(0.05)  # for either order of exit and CANCEL the outcome is the same
    client.send(frame(CANCEL, stream.number))
    assert client.finish(stream).status == CANCELLED
    await_end(client, stream.stdout.strip())


def test_hundred_commands_at_once(client: AgentClient) -> None:
    streams = [
        client.open(EXEC, [(COMMAND, f"read x; echo $x {n}; exit {n}".encode()), INPUT])
        for n in range(100)
    ]
    for stream in reversed(streams):
        client.data(stream, b"in\n")
        client.eof(stream)
    for number, stream in enumerate(streams):
        assert client.finish(stream).code == number
        assert stream.stdout == f"in {number}\n".encode()


def terminal(rows: int, columns: int) -> tuple[int, bytes]:
    return TERMINAL, struct.pack("<HH", rows, columns)


def test_terminal(client: AgentClient) -> None:
    _, stream = client.sh("tty; stty size; echo $TERM; test -t 2 && echo err >&2", terminal(31, 97))
    name, size, term, error = stream.stdout.decode().split("\r\n")[:4]
    assert name.startswith("/dev/pts/")
    assert (size, term, error) == ("31 97", "xterm-256color", "err")
    assert stream.stderr == b""


def test_terminal_input_and_resize(client: AgentClient) -> None:
    script = b"echo ready; for i in 1 2; do read -r x; echo got $x; stty size; done; echo over; cat"
    stream = client.open(EXEC, [(COMMAND, script), terminal(10, 20), INPUT])
    await_output(client, stream, b"ready\r\n")
    client.data(stream, b"hello\n")
    await_output(client, stream, b"got hello\r\n")
    await_output(client, stream, b"10 20\r\n")
    client.send(frame(RESIZE, stream.number, struct.pack("<HH", 40, 120)))
    client.data(stream, b"again\n")
    await_output(client, stream, b"40 120\r\n")
    # Not while a child of the shell ends: a shell forgives an interrupt that its child survives.
    await_output(client, stream, b"over\r\n")
    client.data(stream, b"\x03")
    result = client.finish(stream)
    assert (result.status, result.code) == (KILLED, signal.SIGINT)


def test_terminal_input_ends(client: AgentClient) -> None:
    stream = client.open(EXEC, [(COMMAND, b"cat; echo over"), terminal(10, 20), INPUT])
    client.data(stream, b"line\n")
    client.eof(stream)
    assert client.finish(stream).code == 0
    assert stream.stdout.endswith(b"line\r\nover\r\n")


@root_only
def test_a_terminal_belongs_to_its_user(client: AgentClient) -> None:
    _, stream = client.sh(
        'stat -c %U "$(tty)"; echo x >"$(tty)"', terminal(1, 1), (USER, b"nobody")
    )
    assert stream.stdout == b"nobody\r\nx\r\n"


@root_only
def test_an_agent_of_an_ordinary_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with (
        running_agent(tmp_path / "socket", prefix=prefix),
        AgentClient(tmp_path / "socket") as client,
    ):
        assert client.sh("id -u; exit 5")[1].stdout == b"65534\n"
        result, _ = client.sh("id -u", (USER, b"root"))
        assert (result.status, result.errno) == (FAILED, 1)
