"""The session: greeting, hostile and dying agents, closing, beginning anew."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from attest.errors import ChannelError
from attest.guest.agent.channel import AgentChannel
from attest.guest.agent.process import Process
from attest.guest.agent.protocol import (
    HEADER,
    MAX_DATA,
    PADDING,
    VERSION,
    WINDOW,
    Fields,
    FrameType,
    Status,
    encode_frame,
)
from attest.guest.channel import Command, PowerAction, WaitFor, WaitKind
from tests.unit.agents import Agent, Peer

Pair = Callable[[], tuple[socket.socket, Peer]]


def greet(peer: Peer, before: bytes = b"", version: int = VERSION) -> None:
    """Answer a HELLO as an agent would."""
    hello = peer.read(HEADER.size + 16 + 16 + 2)
    payload = hello[28:44] + struct.pack("<H", version)
    peer.sock.sendall(before + encode_frame(FrameType.WELCOME, 0, payload))


def connected(
    pair: Pair, *, buffer: int | None = None, **options: object
) -> tuple[AgentChannel, Peer]:
    ours, peer = pair()
    if buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    channel = AgentChannel("alice", ours, **options)  # type: ignore[arg-type]
    greeter = threading.Thread(target=greet, args=(peer,))
    greeter.start()
    channel.connect(30)
    greeter.join()
    return channel, peer


def result(stream: int, status: Status = Status.EXITED) -> bytes:
    return encode_frame(FrameType.RESULT, stream, Fields().u32(1, status).u32(2, 0).encode())


def test_the_welcome_says_what_the_guest_is(channel: AgentChannel) -> None:
    with open("/proc/sys/kernel/random/boot_id") as file:
        assert channel.welcome.boot_id == file.read().strip()
    assert channel.welcome.version == VERSION


def test_the_welcome_is_found_behind_other_text(pair: Pair) -> None:
    ours, peer = pair()
    channel = AgentChannel("alice", ours)
    greeter = threading.Thread(target=greet, args=(peer, b"\xa7\x02 login: "))
    greeter.start()
    assert channel.connect(30).version == VERSION
    greeter.join()
    channel.close()


def test_padding_precedes_the_greeting_where_an_earlier_session_may_have_died(pair: Pair) -> None:
    ours, peer = pair()
    channel = AgentChannel("alice", ours, padding=True)

    def answer() -> None:
        assert not any(peer.read(len(PADDING)))
        greet(peer)

    greeter = threading.Thread(target=answer)
    greeter.start()
    channel.connect(30)
    greeter.join()
    channel.close()


def test_an_agent_takes_a_new_session_in_the_middle_of_a_frame(agent: Agent) -> None:
    sock = agent.connection()
    channel = AgentChannel("alice", sock)
    channel.connect(30)
    sock.sendall(HEADER.pack(0xA7, FrameType.OPEN, 0, 0, 9, 5000) + b"half")
    channel.reconnect(sock, "the driver died")
    channel.connect(30)
    assert channel.run(Command("echo again")).stdout == b"again\n"
    channel.close()


def test_no_answer_is_reported_with_what_came_instead(pair: Pair) -> None:
    ours, peer = pair()
    peer.sock.sendall(b"\x1b[2Jlogin: " * 10)
    channel = AgentChannel("alice", ours)
    with pytest.raises(ChannelError, match=r"alice: .*did not answer in 0\.05 s .*login: "):
        channel.connect(0.05)
    with pytest.raises(ChannelError, match="did not answer"):
        channel.run(Command("true"))
    channel.close()


def test_a_guest_that_never_reads_is_reported(pair: Pair) -> None:
    ours, _ = pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    channel = AgentChannel("alice", ours, padding=True)
    with pytest.raises(ChannelError, match="did not read"):
        channel.connect(0.05)
    channel.close()


@pytest.mark.parametrize(("version", "older"), [(VERSION + 1, "this attest"), (0, "the agent")])
def test_another_version_is_refused(pair: Pair, version: int, older: str) -> None:
    ours, peer = pair()
    channel = AgentChannel("alice", ours)
    greeter = threading.Thread(target=greet, args=(peer, b"", version))
    greeter.start()
    with pytest.raises(ChannelError, match=f"version {version}.*{older} is older"):
        channel.connect(30)
    greeter.join()
    channel.close()


def test_nothing_runs_before_the_greeting(pair: Pair) -> None:
    ours, _ = pair()
    channel = AgentChannel("alice", ours)
    with pytest.raises(ChannelError, match="not been greeted"):
        channel.run(Command("true"))
    channel.close()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(b"?", "no frame header", id="no frame"),
        pytest.param(result(2), "unknown stream 2", id="unknown stream"),
        pytest.param(
            encode_frame(FrameType.OPEN, 1, b"\1"), "unexpected OPEN", id="from host only"
        ),
        pytest.param(encode_frame(FrameType.RESULT, 1), "status", id="malformed result"),
        pytest.param(
            encode_frame(FrameType.EOF, 1) + encode_frame(FrameType.DATA, 1, b"x"),
            "after its end",
            id="data after its end",
        ),
        pytest.param(
            encode_frame(FrameType.DATA, 1, bytes(65_536)) * (WINDOW // 65_536)
            + encode_frame(FrameType.DATA, 1, b"x"),
            "beyond its window",
            id="data beyond the window",
        ),
        pytest.param(
            encode_frame(FrameType.ERROR, 0, b"out of\x1b[31m memory"), "out of memory", id="error"
        ),
        pytest.param(b"", "closed", id="end of file"),
    ],
)
def test_a_session_that_ends_fails_what_is_under_way_and_says_why(
    pair: Pair, sent: bytes, reason: str
) -> None:
    reasons: list[str] = []
    told = threading.Event()

    def on_closed(error: ChannelError) -> None:
        reasons.append(error.message)
        told.set()

    channel, peer = connected(pair, on_closed=on_closed)
    # A wait takes no output, so it is the session that bounds what came.
    wait = channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, "/x", timeout=60))
    peer.sock.sendall(sent)
    if not sent:
        peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelError, match=reason):
        wait.result()
    assert told.wait(30)
    with pytest.raises(ChannelError, match=reason):
        channel.run(Command("true"))
    channel.close()
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_a_guest_that_leaves_before_it_says_so(pair: Pair) -> None:
    channel, peer = connected(pair)
    leaver = threading.Thread(target=lambda: peer.read(HEADER.size) and peer.sock.close())
    leaver.start()
    channel.power(PowerAction.REBOOT_NOW)
    leaver.join()
    with pytest.raises(ChannelError, match="closed its agent's connection"):
        channel.power(PowerAction.REBOOT_NOW)  # of which the guest cannot have heard
    channel.close()


def _ask(channel: AgentChannel) -> object:
    return channel.info()


def _leave(channel: AgentChannel) -> object:
    return channel.power(PowerAction.REBOOT_NOW)  # type: ignore[func-returns-value]


def _run(channel: AgentChannel) -> object:
    return channel.run(Command("true", timeout=0.05))


def _wait(channel: AgentChannel) -> object:
    return channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, "/x", timeout=0.05)).result()


@pytest.mark.parametrize(
    ("call", "tried"),
    [
        pytest.param(_run, "`true`, with 0.05 s for it", id="command"),
        pytest.param(_wait, "the wait for file /x to appear, with 0.05 s for it", id="wait"),
        pytest.param(_ask, "ask the agent", id="question"),
        pytest.param(_leave, "reboot now", id="power"),
    ],
)
def test_an_agent_that_falls_silent_is_not_waited_for_longer_than_the_limit_and_a_grace(
    pair: Pair, call: Callable[[AgentChannel], object], tried: str
) -> None:
    channel, _ = connected(pair, grace=0.05)
    with pytest.raises(ChannelError, match=r"the agent did not answer in 0\.\d+ s") as caught:
        call(channel)
    assert caught.value.attempts == [tried]
    channel.close()


@pytest.mark.parametrize("call", [_run, _wait, _ask])
def test_an_agent_that_reads_nothing_is_not_waited_for_longer_either(
    pair: Pair, call: Callable[[AgentChannel], object]
) -> None:
    with stuck(pair) as (channel, _), pytest.raises(ChannelError, match="no longer reads"):
        call(channel)


def test_an_agent_that_reads_nothing_is_not_waited_for_when_a_command_is_to_end(pair: Pair) -> None:
    with stuck(pair) as (_, command), pytest.raises(ChannelError, match="no longer reads"):
        command.cancel()


@contextmanager
def stuck(pair: Pair) -> Iterator[tuple[AgentChannel, Process]]:
    """A channel whose agent has stopped reading in the middle of a command's input."""
    channel, peer = connected(pair, buffer=4096, grace=0.05)
    copying = channel.start(Command("cat", stdin=True))
    failures: list[ChannelError] = []

    def copy() -> None:
        with pytest.raises(ChannelError) as caught:
            copying.write(bytes(MAX_DATA))
        failures.append(caught.value)

    copier = threading.Thread(target=copy)
    copier.start()
    *_, size = HEADER.unpack(peer.read(HEADER.size))
    peer.read(size + HEADER.size)  # the copier is in the middle of a frame, and stays there
    yield channel, copying
    copier.join()
    assert "no longer reads" in str(failures[0])
    channel.close()


def test_closing_ends_whatever_waits(channel: AgentChannel) -> None:
    process = channel.start(Command("sleep 60"))
    wait = channel.start_wait(WaitFor(WaitKind.FILE_EXISTS, "/nowhere", timeout=60))
    failures: list[BaseException] = []

    def expect(call: Callable[[], object]) -> None:
        with pytest.raises(ChannelError, match="closed") as caught:
            call()
        failures.append(caught.value)

    threads = [threading.Thread(target=expect, args=(c,)) for c in (process.wait, wait.result)]
    for thread in threads:
        thread.start()
    channel.close()
    for thread in threads:
        thread.join()
    assert len(failures) == 2
    channel.close()


def test_a_closing_channel_may_be_closed_by_whoever_is_told(pair: Pair) -> None:
    closed = threading.Event()

    def on_closed(error: ChannelError) -> None:
        channel.close()
        closed.set()

    channel, peer = connected(pair, on_closed=on_closed)
    peer.sock.close()
    assert closed.wait(30)


def test_after_a_restore_what_was_under_way_fails_and_the_channel_works(agent: Agent) -> None:
    channel = AgentChannel("alice", agent.connection())
    channel.connect(30)
    process = channel.start(Command("sleep 60"))
    channel.reconnect(agent.connection(), "the machine was restored", padding=False)
    with pytest.raises(ChannelError, match="alice: the machine was restored"):
        process.wait()
    with pytest.raises(ChannelError, match="not been greeted"):
        channel.run(Command("true"))
    channel.connect(30)
    assert channel.run(Command("echo on")).stdout == b"on\n"
    channel.close()


def test_the_agent_forgets_what_an_earlier_session_had_under_way(agent: Agent) -> None:
    first = AgentChannel("alice", agent.connection())
    first.connect(30)
    first.start(Command("sleep 60"))
    second = AgentChannel("alice", agent.connection())
    second.connect(30)
    assert second.info()["operations"] == "0"
    first.close()
    second.close()


def test_a_frame_that_an_interrupt_cut_in_two_is_completed_by_the_next_sender(pair: Pair) -> None:
    channel, peer = connected(pair)
    process = channel.start(Command("cat", stdin=True))
    peer.sock.settimeout(30)
    session = channel._session
    frame = encode_frame(FrameType.DATA, 1, b"x" * 60_000)
    # What an interrupted sender leaves: part of a frame with the kernel, the rest in the writer.
    with session._write_lock:
        session._writer.write(frame)
    process.write(b"after")
    opened = peer.read(HEADER.size)
    peer.read(HEADER.unpack(opened)[5])
    assert peer.read(len(frame)) == frame
    assert peer.read(HEADER.size + 5)[HEADER.size :] == b"after"
    channel.close()
