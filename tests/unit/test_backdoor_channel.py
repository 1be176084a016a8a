"""The channel over a backdoor shell: a real bash on this host in the place of a guest's."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from attest.errors import ChannelError, MachineError, WaitFailed
from attest.guest.backdoor.channel import ShellChannel, ShellHost
from attest.guest.channel import Command, PowerAction, WaitFor, WaitKind
from attest.guest.identity import Identity

_GREETING = b"booting\r\nSpawning backdoor root shell...\n"


@pytest.fixture
def host(tmp_path: Path) -> ShellHost:
    """A host that shares no directory with the guest."""
    (tmp_path / "shared").mkdir()
    return ShellHost(tmp_path / "shared", lambda *_: None, lambda _: None)


@pytest.fixture
def channel(host: ShellHost) -> Iterator[ShellChannel]:
    """A channel to a bash, greeted."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        ["bash", "--norc"], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL
    ) as bash:
        theirs.sendall(_GREETING)
        theirs.close()
        channel = ShellChannel("m", ours, host)
        channel.connect(10)
        yield channel
        channel.close()
        bash.kill()


@pytest.fixture
def fake(host: ShellHost) -> Iterator[tuple[ShellChannel, socket.socket]]:
    """A channel, and the other end of it, which the test plays."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    theirs.sendall(_GREETING)
    channel = ShellChannel("m", ours, host)
    channel.connect(10)
    with theirs:
        yield channel, theirs
        channel.close()


def test_output_and_exit_code(channel: ShellChannel) -> None:
    done = channel.run(Command("printf 'a\\0b'; exit 3"))
    assert (done.stdout, done.status, done.timed_out) == (b"a\0b", 3, False)
    assert channel.run(Command("cat; echo read")).stdout == b"read\n"
    assert channel.run(Command(["echo", "it's", "two words"])).stdout == b"it's two words\n"


def test_a_working_directory(channel: ShellChannel, tmp_path: Path) -> None:
    place = tmp_path / "with blank"
    place.mkdir()
    there = f"{place}\n".encode()
    assert channel.run(Command(["pwd"], cwd=str(place))).stdout == there
    assert channel.run(Command("pwd", cwd=str(place), strict=True)).stdout == there
    assert channel.run(Command("pwd", strict=True)).stdout == b"/tmp\n"
    assert channel.run(Command(["pwd"], cwd=str(place / "nonesuch"))).status == 125


def test_a_time_limit(channel: ShellChannel) -> None:
    done = channel.run(Command("echo before; sleep 60", timeout=0.2))
    assert (done.stdout, done.status, done.timed_out) == (b"before\n", 124, True)
    assert not channel.run(Command("exit 124", timeout=60)).timed_out


def test_commands_queue(channel: ShellChannel) -> None:
    first = channel.start(Command("sleep 0.3; echo first"))
    second = channel.start(Command("echo second"))
    assert second.wait().stdout == b"second\n"
    assert first.wait(0).stdout == b"first\n"
    with pytest.raises(TimeoutError):
        channel.start(Command("sleep 0.5")).wait(0.01)


def test_a_command_that_nobody_waits_for(channel: ShellChannel, tmp_path: Path) -> None:
    begun = channel.start(Command("sleep 0.5; echo unseen"))
    never = channel.start(Command(f"touch {tmp_path}/never"))
    begun.cancel()
    never.cancel()
    assert begun.wait().signal == 9
    assert channel.run(Command("echo seen")).stdout == b"seen\n"
    assert not (tmp_path / "never").exists()


def test_a_sink_that_fails_concerns_its_command_only(channel: ShellChannel) -> None:
    def full(_data: bytes) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        channel.run(Command("echo text"), stdout=full)
    assert channel.run(Command("echo seen")).stdout == b"seen\n"


def test_files_go_through_the_shell(channel: ShellChannel, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(bytes(range(256)) * 1000)
    (source / "link").symlink_to("data")
    channel.put(source, str(tmp_path / "deep" / "target"))
    assert (tmp_path / "deep" / "target" / "data").read_bytes() == bytes(range(256)) * 1000
    channel.get(str(tmp_path / "deep" / "target"), tmp_path / "back")
    assert (tmp_path / "back" / "data").read_bytes() == bytes(range(256)) * 1000
    assert (tmp_path / "back" / "link").readlink() == Path("data")


def test_files_that_cannot_be_copied(channel: ShellChannel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="file/below"):
        channel.put(tmp_path / "file", str(tmp_path / "file" / "below"))
    with pytest.raises(MachineError, match="nonesuch"):
        channel.get("/nonesuch", tmp_path / "nothing")
    assert channel.run(Command("echo alive")).stdout == b"alive\n"


def test_waits(channel: ShellChannel, tmp_path: Path) -> None:
    file = tmp_path / "with blank"
    wait = channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, str(file), timeout=30))
    with pytest.raises(TimeoutError):
        wait.result(0.1)
    file.touch()
    wait.result()
    channel.start_wait(WaitFor(WaitKind.PROCESS, "1", timeout=30)).result()
    with pytest.raises(WaitFailed, match=r"file .*/with blank did not go away in 0\.2 s"):
        channel.start_wait(WaitFor(WaitKind.FILE_GONE, str(file), timeout=0.2)).result()


def test_ports(channel: ShellChannel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        seen = channel.start_wait(
            WaitFor(WaitKind.PORT_OPEN, "localhost", timeout=30, port=port)
        ).result()
        assert seen == "open"
        with pytest.raises(WaitFailed, match=r"did not close in 0\.3 s: open"):
            channel.start_wait(
                WaitFor(WaitKind.PORT_CLOSED, "127.0.0.1", timeout=0.3, port=port)
            ).result()
    channel.start_wait(WaitFor(WaitKind.PORT_CLOSED, "127.0.0.1", timeout=30, port=port)).result()
    with pytest.raises(WaitFailed, match=r"did not open in 0 s: Connection refused"):
        channel.start_wait(WaitFor(WaitKind.PORT_OPEN, "::1", timeout=0, port=port)).result()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "::1", "[::1]"])
def test_a_port_is_open_where_any_address_of_its_name_accepts(
    channel: ShellChannel, host: str
) -> None:
    def wait(kind: WaitKind, timeout: float) -> str:
        return channel.start_wait(WaitFor(kind, host, timeout, port=port)).result()

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        assert wait(WaitKind.PORT_OPEN, 0) == "open"
        with pytest.raises(WaitFailed, match=r"did not close in 0\.3 s: open"):
            wait(WaitKind.PORT_CLOSED, 0.3)
    assert wait(WaitKind.PORT_CLOSED, 30) == "Connection refused"


@pytest.mark.parametrize("kind", [WaitKind.PORT_OPEN, WaitKind.PORT_CLOSED])
@pytest.mark.parametrize("host", ["[", "[]", "::1]", "$(id)", "a b"])
def test_what_is_no_name_ends_the_wait(channel: ShellChannel, kind: WaitKind, host: str) -> None:
    with pytest.raises(WaitFailed, match="the machine knows no address of"):
        channel.start_wait(WaitFor(kind, host, timeout=60, port=9)).result()


@pytest.mark.parametrize("kind", [WaitKind.PORT_OPEN, WaitKind.PORT_CLOSED])
def test_a_name_that_is_not_known_may_become_so(channel: ShellChannel, kind: WaitKind) -> None:
    with pytest.raises(WaitFailed, match=r"in 0\.3 s: the machine knows no address of nobody\.inv"):
        channel.start_wait(WaitFor(kind, "nobody.invalid", timeout=0.3, port=9)).result()


@pytest.mark.parametrize("datagram", [False, True])
def test_unix_sockets(channel: ShellChannel, tmp_path: Path, datagram: bool) -> None:
    kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(path)
        wait = channel.start_wait(
            WaitFor(WaitKind.UNIX_SOCKET, path, timeout=30, datagram=datagram)
        )
        if not datagram:
            with pytest.raises(TimeoutError):
                wait.result(0.2)  # bound, but nobody listens
            server.listen()
        wait.result()


def test_a_wait_ends_when_it_is_cancelled(channel: ShellChannel) -> None:
    wait = channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, "/never", timeout=60))
    threading.Timer(0.2, wait.cancel).start()
    with pytest.raises(WaitFailed, match="was cancelled"):
        wait.result()


def test_a_wait_behind_a_long_command_keeps_its_time_limit(channel: ShellChannel) -> None:
    channel.start(Command("sleep 2"))
    with pytest.raises(WaitFailed, match=r"file / did not appear in 0\.3 s"):
        channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, "/", timeout=0.3)).result()


def test_what_a_shell_cannot_do(channel: ShellChannel) -> None:
    with pytest.raises(MachineError, match="cannot give a command standard input"):
        channel.start(Command("cat", stdin=True))
    with pytest.raises(MachineError, match="cannot end a command before its processes in"):
        channel.start(Command("true", wait_for_output=False))
    with pytest.raises(MachineError, match="cannot give a command a terminal"):
        channel.start(Command("top", pty=(24, 80)))
    with pytest.raises(MachineError, match="cannot tell a guest who it is"):
        channel.identity(Identity())
    with pytest.raises(MachineError, match="as it comes"):
        channel.start(Command("true")).read()


# When the guest is not as it should be


def test_a_guest_that_hangs(host: ShellHost) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(_GREETING)
        channel = ShellChannel("m", ours, host, grace=0.1, kill_after=0.1)
        channel.connect(10)
        with pytest.raises(ChannelError, match="no longer answers"):
            channel.run(Command("true", timeout=0.1))
        with pytest.raises(ChannelError, match="no longer answers"):
            channel.start(Command("true"))
        channel.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"not base64! 11\n0\n",
        b"YQ= 3\n0\n",
        b"YQ==\n0\n",
        b"YQ== 4\nzero\n",
        b"YQ== 4\n-1\n",
        b" 0\n" + b"1" * 99,
        b"Y" * 99_999,
    ],
)
def test_a_shell_that_says_something_else(
    fake: tuple[ShellChannel, socket.socket], answer: bytes
) -> None:
    channel, shell = fake
    process = channel.start(Command("true"))
    shell.sendall(answer)
    with pytest.raises(ChannelError, match="broke the protocol"):
        process.wait(10)


def test_output_that_is_lost_is_missed(fake: tuple[ShellChannel, socket.socket]) -> None:
    channel, shell = fake
    process = channel.start(Command("true"))
    shell.sendall(b"YQ== 8\n0\n")
    with pytest.raises(ChannelError, match="of a line of 8 characters came 4"):
        process.wait(10)


def test_the_host_asks_for_each_line_of_output(fake: tuple[ShellChannel, socket.socket]) -> None:
    channel, shell = fake
    process = channel.start(Command("true"))
    assert shell.recv(1000).endswith(b"9<&0\n")
    for _ in range(2):
        shell.sendall(b"Y" * 32_768 + b" 32768\n")
        assert shell.recv(1000) == b"\n"
    shell.sendall(b" 0\n0\n")
    assert len(process.wait(10).stdout) == 2 * 32_768 // 4 * 3


@pytest.mark.parametrize("size", [0, 1, 24_575, 24_576, 24_577, 49_152, 1_000_000])
def test_output_of_any_size(channel: ShellChannel, size: int) -> None:
    assert channel.run(Command(f"head -c {size} /dev/zero")).stdout == bytes(size)


def test_a_connection_that_ends(fake: tuple[ShellChannel, socket.socket]) -> None:
    channel, shell = fake
    processes = [channel.start(Command("one")), channel.start(Command("two"))]
    shell.close()
    for process in processes:
        with pytest.raises(ChannelError, match="closed its shell's connection"):
            process.wait(10)


def test_an_interrupt_is_told_to_all(fake: tuple[ShellChannel, socket.socket]) -> None:
    channel, _ = fake
    process = channel.start(Command("one"))
    channel.interrupt("the machine reboots")
    with pytest.raises(ChannelError, match="the machine reboots"):
        process.wait(10)


def test_it_begins_anew_after_a_reboot(host: ShellHost) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(10)
        channel = ShellChannel("m", ours, host)
        theirs.sendall(_GREETING)
        channel.connect(10)
        channel.reconnect(ours, "it reboots")
        theirs.sendall(b"rest of a line" + _GREETING)
        channel.connect(10)
        channel.power(PowerAction.POWER_OFF)
        assert theirs.recv(100) == b"poweroff\n"
        channel.close()


def test_no_greeting(host: ShellHost) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = ShellChannel("m", ours, host)
        theirs.sendall(b"login: ")
        with pytest.raises(ChannelError, match=r"did not greet in 0\.1 s"):
            channel.connect(0.1)
        channel.close()


def test_a_greeting_that_is_awaited_can_be_interrupted(host: ShellHost) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = ShellChannel("m", ours, host)
        threading.Timer(0.1, channel.interrupt, ["enough"]).start()
        with pytest.raises(ChannelError, match="enough"):
            channel.connect(60)
        channel.close()
