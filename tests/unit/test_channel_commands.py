"""Commands and waits through a real agent on this host."""

import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from attest.errors import ChannelError, MachineError, UsageError, WaitFailed
from attest.guest.agent.channel import AgentChannel
from attest.guest.channel import Command, Completed, WaitFor, WaitKind

MIB = 1 << 20


@pytest.fixture
def sleep() -> str:
    """A command that sleeps for a minute, and that only this test runs."""
    return f"sleep 60.{random.randrange(10**12):012}"


def test_output_errors_and_exit_code_come_apart(channel: AgentChannel) -> None:
    completed = channel.run(Command("echo out; echo err >&2; exit 3"))
    assert completed == Completed(3, b"out\n", b"err\n")


def test_arguments_need_no_shell(channel: AgentChannel) -> None:
    command = Command(["printf", "%s|", "a b", "$HOME", "ü"])
    assert channel.run(command).stdout == "a b|$HOME|ü|".encode()


def test_directory_environment_and_user(channel: AgentChannel, tmp_path: Path) -> None:
    completed = channel.run(Command("pwd; echo $WORD", cwd=str(tmp_path), env={"WORD": "a b=c"}))
    assert completed.stdout.decode() == f"{tmp_path}\na b=c\n"
    if os.geteuid() == 0:
        assert (
            channel.run(Command("id -un; echo $USER", user="nobody")).stdout == b"nobody\nnobody\n"
        )


def test_a_signal_is_told_from_an_exit_code(channel: AgentChannel) -> None:
    completed = channel.run(Command("kill -TERM $$"))
    assert (completed.status, completed.signal) == (128 + signal.SIGTERM, signal.SIGTERM)
    assert channel.run(Command("exit 143")).signal is None


def test_the_time_limit_ends_a_command_and_its_children(channel: AgentChannel, sleep: str) -> None:
    completed = channel.run(Command(f"echo begun; {sleep} & {sleep}", timeout=0.3))
    assert (completed.status, completed.timed_out) == (124, True)
    assert completed.stdout == b"begun\n"
    assert channel.run(Command(["pgrep", "-fx", sleep])).status == 1


def test_what_cannot_be_started_says_why(channel: AgentChannel) -> None:
    with pytest.raises(MachineError, match=r"alice: `true` could not be started: .*user"):
        channel.run(Command("true", user="nosuchuser"))
    with pytest.raises(MachineError, match="/no/such"):
        channel.run(Command("true", cwd="/no/such"))


def test_a_command_with_a_nul_is_refused_before_it_is_sent(channel: AgentChannel) -> None:
    with pytest.raises(UsageError, match="NUL"):
        channel.run(Command("echo \0"))
    assert channel.run(Command("true")).status == 0


def test_a_command_that_is_too_long_is_refused_before_it_is_sent(channel: AgentChannel) -> None:
    longest = 131_071
    done = channel.run(Command(f"test {'x' * (longest - 15)} ; echo ok"))
    assert done.stdout == b"ok\n"
    assert len(channel.run(Command(["echo", *["x" * 100_000] * 2])).stdout) == 200_002
    for words in ("#" * (longest + 1), ["echo", "x" * 200_000], "ä" * 70_000):
        with pytest.raises(UsageError, match=r"at most 131,071 bytes, this one has (131,072|2|14)"):
            channel.run(Command(words))
    with pytest.raises(UsageError, match="a request to an agent has at most 262144 bytes"):
        channel.run(Command(["echo", *["x" * 100_000] * 3]))
    with pytest.raises(UsageError, match="this one has 200,009"):
        channel.run(Command("true", env={"LARGE_ONE": "x" * 199_999}))
    assert channel.run(Command("true")).status == 0


def test_without_input_there_is_none(channel: AgentChannel) -> None:
    assert channel.run(Command("cat")).stdout == b""
    process = channel.start(Command("cat"))
    with pytest.raises(BrokenPipeError):
        process.write(b"x")
    assert process.wait().status == 0


@pytest.mark.parametrize("size", [0, 5, 262_144, 3 * MIB])
def test_input_comes_through(channel: AgentChannel, size: int) -> None:
    data = os.urandom(size)
    assert channel.run(Command("cat"), input=data).stdout == data
    digest = hashlib.sha256(data).hexdigest()
    completed = channel.run(Command("sha256sum"), input=io.BytesIO(data))
    assert completed.stdout.startswith(digest.encode())


def test_input_that_nobody_reads_does_not_hold_up_the_end(channel: AgentChannel) -> None:
    assert channel.run(Command("exit 4"), input=bytes(8 * MIB)).status == 4


def test_input_that_fails_ends_the_command(channel: AgentChannel) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        channel.run(Command("cat"), input=Broken())


def test_output_streams_to_a_sink_in_the_callers_thread(channel: AgentChannel) -> None:
    pieces: list[bytes] = []
    threads: set[threading.Thread] = set()

    def sink(data: bytes) -> None:
        pieces.append(data)
        threads.add(threading.current_thread())
        process.write(b"go on\n")

    process = channel.start(Command("echo 1; read; echo 2; read", stdin=True), stdout=sink)
    # The command waits for each answer, so the output is seen while it runs.
    assert process.wait() == Completed(0, b"", b"")
    assert pieces == [b"1\n", b"2\n"]
    assert threads == {threading.current_thread()}


def test_a_sink_that_fails_ends_the_command(channel: AgentChannel, sleep: str) -> None:
    def sink(data: bytes) -> None:
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        channel.run(Command(f"echo; {sleep}"), stdout=sink)
    assert channel.run(Command(f"while pgrep -fx '{sleep}'; do :; done", timeout=30)).status == 0


def test_a_slow_consumer_holds_up_nobody(channel: AgentChannel) -> None:
    process = channel.start(Command(f"head -c {64 * MIB} /dev/zero"))  # nobody takes its output
    for _ in range(20):
        assert channel.run(Command("echo free")).stdout == b"free\n"
    assert len(process.wait().stdout) == 64 * MIB


def test_much_output_on_both_channels(channel: AgentChannel) -> None:
    completed = channel.run(
        Command(f"head -c {5 * MIB} /dev/zero & head -c {5 * MIB} /dev/zero >&2; wait")
    )
    assert (len(completed.stdout), len(completed.stderr)) == (5 * MIB, 5 * MIB)


def test_200_mb_of_output_do_not_stay_in_memory(channel: AgentChannel) -> None:
    size = 200 * 10**6
    counted = 0

    def sink(data: bytes) -> None:
        nonlocal counted
        counted += len(data)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert channel.run(Command(f"head -c {size} /dev/zero"), stdout=sink).status == 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert counted == size
    assert grown < 16 * 1024  # KiB


def test_100_commands_at_once_keep_their_outputs_apart(channel: AgentChannel) -> None:
    def run(number: int) -> None:
        word = f"{number:03}" * 1000
        completed = channel.run(
            Command(f"cat; echo {number} >&2; exit {number}"), input=word.encode()
        )
        assert completed == Completed(number, word.encode(), f"{number}\n".encode())

    with ThreadPoolExecutor(100) as pool:
        for future in [pool.submit(run, number) for number in range(100)]:
            future.result()


def test_cancelling_ends_a_command(channel: AgentChannel) -> None:
    process = channel.start(Command("sleep 60"))
    threading.Thread(target=process.cancel).start()
    completed = process.wait()
    assert (completed.status, completed.signal) == (128 + signal.SIGKILL, signal.SIGKILL)
    process.cancel()
    with pytest.raises(BrokenPipeError):
        process.write(b"x")


def test_an_interrupted_run_cancels_its_command(agent_path: Path, sleep: str) -> None:
    # In a process of its own, as the interrupt is for its main thread.
    script = (
        "import socket, sys\n"
        "from attest.guest.agent.channel import AgentChannel\n"
        "from attest.guest.channel import Command\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])\n"
        "channel = AgentChannel('alice', sock); channel.connect(30)\n"
        "try:\n"
        f"    channel.run(Command('echo; {sleep}'), stdout=lambda data: print('up', flush=True))\n"
        "except KeyboardInterrupt:\n"
        f"    left = channel.run(Command('while pgrep -fx \"{sleep}\"; do :; done', timeout=30))\n"
        "    print('interrupted', left.status, flush=True)\n"
        "    channel.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, agent_path], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "interrupted 0\n"


def test_a_process_can_be_asked_whether_it_has_ended(channel: AgentChannel) -> None:
    process = channel.start(Command("cat", stdin=True))
    with pytest.raises(TimeoutError):
        process.wait(0.01)
    with pytest.raises(TimeoutError):
        process.read(0.01)
    process.write(b"words")
    assert process.read(30) == b"words"
    process.close_stdin()
    with pytest.raises(BrokenPipeError):
        process.write(b"more")
    assert process.read(30) == b""
    assert process.wait(30) == Completed(0, b"", b"")


def test_a_terminal_and_its_size(channel: AgentChannel) -> None:
    process = channel.start(Command("stty size; read; stty size", pty=(24, 80)))
    output = process.read(30)
    process.resize(50, 132)
    process.write(b"\n")
    while data := process.read(30):
        output += data
    assert output.replace(b"\r\n", b"\n").split() == [b"24", b"80", b"50", b"132"]


def test_a_background_process_is_waited_for_only_if_wanted(channel: AgentChannel) -> None:
    completed = channel.run(Command("sleep 60 & echo $!", wait_for_output=False))
    assert channel.run(Command(f"kill {int(completed.stdout)}")).status == 0
    assert channel.run(Command("(sleep 0.05; echo late) & echo soon")).stdout == b"soon\nlate\n"


def test_the_channels_death_fails_a_command_at_once(channel: AgentChannel) -> None:
    process = channel.start(Command("sleep 60"))
    channel._sock.shutdown(2)
    with pytest.raises(ChannelError, match="closed"):
        process.wait()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_file_is_seen_when_it_appears(
    channel: AgentChannel, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    wait = channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, str(tmp_path / "new"), timeout=30))
    make(tmp_path / "new")
    wait.result()
    wait = channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, str(tmp_path / "new"), timeout=30))
    assert wait.result() is not None


def test_a_wait_that_runs_into_its_limit_says_for_what(channel: AgentChannel) -> None:
    with pytest.raises(
        WaitFailed, match=r"^alice: file /nowhere did not appear in 0\.05 s: No such"
    ):
        channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, "/nowhere", timeout=0.05)).result()


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (WaitFor(WaitKind.PORT_OPEN, "localhost", 5, port=80), "port 80 of localhost | open"),
        (WaitFor(WaitKind.PORT_CLOSED, "db", 5, port=80), "port 80 of db | close"),
        (WaitFor(WaitKind.UNIX_SOCKET, "/run/{0}", 5), "socket /run/{0} | open"),
        (WaitFor(WaitKind.FILE_GONE, "/run/x", 5), "file /run/x | go away"),
        (WaitFor(WaitKind.UNIT, "web.service", 5), "unit web.service | become active"),
        (
            WaitFor(WaitKind.UNIT, "web.service", 5, wanted="failed"),
            "unit web.service | become failed",
        ),
        (WaitFor(WaitKind.PROCESS_GONE, "12", 5), "process 12 | end"),
    ],
)
def test_errors_call_what_is_waited_for_as_people_do(wanted: WaitFor, text: str) -> None:
    what, verb = text.split(" | ")
    assert str(wanted) == f"{what} to {verb}"
    assert wanted.unmet("it snows") == f"{what} did not {verb}: it snows"
    assert wanted.unmet("", in_time=True) == f"{what} did not {verb} in 5 s"


def test_a_wait_has_a_timedelta(channel: AgentChannel) -> None:
    process = channel.start(Command("sleep 60"))
    with pytest.raises(TimeoutError):
        process.wait(timedelta(milliseconds=50))
    with pytest.raises(UsageError, match=r"^alice: read: timeout: expected .* found 'soon'$"):
        process.read("soon")  # type: ignore[arg-type]
    process.abandon()


def test_a_wait_can_be_cancelled(channel: AgentChannel) -> None:
    wait = channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, "/nowhere", timeout=60))
    wait.cancel()
    with pytest.raises(WaitFailed, match="cancelled"):
        wait.result()


def test_the_agent_tells_of_its_guest(channel: AgentChannel) -> None:
    info = channel.info()
    assert info["boot_id"] == channel.welcome.boot_id
    assert int(info["uptime_ms"]) > 0
