"""Sessions with the agent: handshake, hostile frames, windows."""

import contextlib
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent_client import (
    CANCEL,
    DATA,
    DONE,
    EOF,
    EXEC,
    FAILED,
    FIRST_WINDOW,
    HELLO,
    INFO,
    MAGIC,
    OPEN,
    RESIZE,
    RESULT,
    WAIT,
    WINDOW,
    AgentClient,
    SessionEnded,
    Stream,
    agent_socket,
    client,
    encode,
    frame,
    u32,
)

__all__ = ["agent_socket", "client"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
ENDLESS = [(1, u32(4)), (2, b"/nowhere/at/all")]
"""A wait for a file that never comes."""


def header(magic: int, kind: int, flags: int, reserved: int, stream: int, length: int) -> bytes:
    return struct.pack("<BBBBII", magic, kind, flags, reserved, stream, length)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def await_death(pid: int, client: AgentClient) -> None:
    result, _ = client.run(WAIT, [(1, u32(7)), (2, str(pid).encode())])
    assert result.status == DONE
    assert not is_alive(pid)


def test_welcome(client: AgentClient) -> None:
    assert client.version == 3
    assert client.welcome[2] == BOOT_ID
    assert client.welcome[3] in ("systemd", "other")
    assert client.welcome[4].endswith(("/bash", "/sh"))
    assert client.welcome[5] == platform.machine()


def test_another_version_is_answered(client: AgentClient) -> None:
    client.hello(version=77)
    assert client.version == 3


@pytest.mark.parametrize("size", [1, 12, 262_156])
def test_padding_before_a_hello(client: AgentClient, size: int) -> None:
    client.hello(padding=size)
    assert client.sh("echo on")[1].stdout == b"on\n"


@pytest.mark.parametrize(
    "remains",
    [
        frame(OPEN, 9, bytes([EXEC]) + encode([(1, b"x" * 500)]))[:300],
        header(0xA7, OPEN, 0, 0, 3, 262_144),
        header(0xA7, DATA, 0, 0, 3, 65_536)[:7],
        frame(HELLO, 0, MAGIC + bytes(18))[:40],
    ],
)
def test_padding_completes_a_frame_that_was_cut(client: AgentClient, remains: bytes) -> None:
    client.send(remains)
    client.hello(padding=262_156)
    assert client.sh("echo on")[1].stdout == b"on\n"


def test_bytes_before_the_first_hello_are_discarded(agent_socket: Path) -> None:
    with AgentClient(agent_socket, hello=False) as client:
        client.send(os.urandom(5000).replace(b"\xa7", b"") + frame(OPEN, 1, bytes([INFO])))
        client.send(frame(HELLO, 0, MAGIC + bytes(18))[:27] + b"\xa7")
        client.hello()
        assert client.run(INFO, [])[0].status == DONE


def test_a_hello_ends_the_session_before(client: AgentClient) -> None:
    stream = client.open(EXEC, [(1, b"echo $$; exec sleep 1000")])
    while not stream.stdout:
        client.handle()
    pid = int(stream.stdout)
    client.hello()
    await_death(pid, client)
    assert "operations=0\n" in client.run(INFO, [])[0].value


def test_the_newest_connection_wins(agent_socket: Path) -> None:
    with AgentClient(agent_socket) as old, AgentClient(agent_socket) as new:
        with pytest.raises(SessionEnded, match="another host"):
            old.handle()
        with pytest.raises(SessionEnded, match=r"^$"):
            old.handle()
        assert new.sh("echo on")[1].stdout == b"on\n"


def test_a_connection_without_a_hello_disturbs_nobody(agent_socket: Path) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(AgentClient(agent_socket))
        for _ in range(40):
            stack.enter_context(AgentClient(agent_socket, hello=False))
        assert client.sh("echo on")[1].stdout == b"on\n"


def test_a_closed_connection_ends_its_processes(agent_socket: Path) -> None:
    with AgentClient(agent_socket) as client:
        stream = client.open(EXEC, [(1, b"sleep 1000 & echo $! $$; wait")])
        while not stream.stdout:
            client.handle()
    with AgentClient(agent_socket) as client:
        for pid in stream.stdout.split():
            await_death(int(pid), client)


HOSTILE = {
    "magic": (b"\xa6" + bytes(11), "begins with 0xa6"),
    "reserved": (header(0xA7, EOF, 0, 1, 1, 0), "reserved byte"),
    "flags": (header(0xA7, OPEN, 1, 0, 1, 1) + b"\x08", "flags"),
    "unknown type": (header(0xA7, 11, 0, 0, 1, 0), "type 0x0b"),
    "agent's type": (header(0xA7, RESULT, 0, 0, 1, 0), "type 0x09"),
    "stream 0": (frame(OPEN, 0, bytes([INFO])), "stream 0"),
    "OPEN too long": (header(0xA7, OPEN, 0, 0, 1, 262_145), "262145 bytes"),
    "OPEN empty": (frame(OPEN, 1), "at least 1"),
    "DATA too long": (header(0xA7, DATA, 0, 0, 1, 65_537), "65537 bytes"),
    "longest": (header(0xA7, DATA, 0, 0, 1, 0xFFFFFFFF), "4294967295 bytes"),
    "EOF with payload": (frame(EOF, 1, b"x"), "at most 0"),
    "WINDOW short": (frame(WINDOW, 1, b"xxx"), "at least 4"),
    "RESIZE long": (frame(RESIZE, 1, b"xxxxx"), "at most 4"),
    "CANCEL with payload": (frame(CANCEL, 1, b"x"), "at most 0"),
    "HELLO on a stream": (frame(HELLO, 1, MAGIC + bytes(18)), "HELLO has stream 1"),
    "HELLO short": (frame(HELLO, 0, MAGIC), "HELLO has stream 0 and length 16"),
    "HELLO without magic": (frame(HELLO, 0, bytes(34)), "lacks its magic"),
    "operation": (frame(OPEN, 1, b"\x63"), "operation 99"),
    "unknown tag": (frame(OPEN, 1, b"\x08" + encode([(1, b"")])), "tag 1 .* not known"),
    "tag 0": (frame(OPEN, 1, b"\x01" + encode([(0, b"")])), "tag 0 .* not known"),
    "field cut": (frame(OPEN, 1, b"\x01\x01\xff\xff\xff\xff"), "no complete field"),
    "field header cut": (frame(OPEN, 1, b"\x01\x01\x00"), "no complete field"),
    "NUL in text": (frame(OPEN, 1, b"\x01" + encode([(1, b"a\0b")])), "NUL"),
    "u64 short": (frame(OPEN, 1, b"\x01" + encode([(6, b"1234")])), "8 bytes"),
    "twice": (frame(OPEN, 1, b"\x01" + encode([(1, b"a"), (1, b"b")])), "twice"),
    "seed too long": (frame(OPEN, 1, b"\x06" + encode([(5, bytes(513))])), "512"),
    "DATA for a WAIT": (
        frame(OPEN, 1, bytes([WAIT]) + encode(ENDLESS)) + frame(DATA, 1, b"x"),
        "takes none",
    ),
    "OPEN twice": (2 * frame(OPEN, 1, bytes([WAIT]) + encode(ENDLESS)), "while it was in use"),
    "DATA on channel 1": (
        frame(OPEN, 1, b"\x01" + encode([(1, b"sleep 9"), (8, u32(1))])) + frame(DATA, 1, b"x", 1),
        "channel 1",
    ),
    "DATA after EOF": (
        frame(OPEN, 1, b"\x01" + encode([(1, b"sleep 9"), (8, u32(1))]))
        + frame(EOF, 1)
        + frame(DATA, 1, b"x"),
        "after EOF",
    ),
    "DATA beyond the window": (
        frame(OPEN, 1, b"\x01" + encode([(1, b"sleep 9"), (8, u32(1))]))
        + 6 * frame(DATA, 1, bytes(65_536)),  # a pipe's worth more than the window
        "window",
    ),
    "WINDOW beyond 32 bits": (
        frame(OPEN, 1, bytes([WAIT]) + encode(ENDLESS)) + frame(WINDOW, 1, u32(0xFFFFFFFF)),
        "too much",
    ),
}


@pytest.mark.parametrize(("bytes_sent", "text"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_frame_ends_the_session(
    client: AgentClient, bytes_sent: bytes, text: str
) -> None:
    client.streams[1] = Stream(1)
    client.send(bytes_sent)
    with pytest.raises(SessionEnded, match=text):
        client.drain()
    # What comes after is discarded, and a HELLO begins anew on the same connection.
    client.send(frame(OPEN, 7, bytes([INFO])))
    client.hello()
    assert "operations=0\n" in client.run(INFO, [])[0].value


@pytest.mark.parametrize("kind", [DATA, EOF, WINDOW, CANCEL, RESIZE])
def test_frames_for_a_stream_that_has_ended_are_ignored(client: AgentClient, kind: int) -> None:
    client.send(frame(kind, 4_000_000_000, bytes(4) if kind in (DATA, WINDOW, RESIZE) else b""))
    assert client.run(INFO, [])[0].status == DONE


def test_frames_may_come_byte_by_byte(client: AgentClient) -> None:
    stream = client.streams[1] = Stream(1)
    for byte in frame(OPEN, 1, bytes([EXEC]) + encode([(1, b"echo on")])):
        client.socket.sendall(bytes([byte]))
    client.finish(stream)
    assert stream.stdout == b"on\n"


def test_operations_are_limited(client: AgentClient) -> None:
    streams = [client.open(WAIT, ENDLESS) for _ in range(1024)]
    result, _ = client.run(WAIT, ENDLESS)
    assert (result.status, result.errno) == (FAILED, 11)
    client.cancel(streams[0])
    assert client.finish(streams[0]).status == 4
    assert client.run(INFO, [])[0].status == DONE


def test_info(client: AgentClient) -> None:
    client.open(WAIT, ENDLESS)
    value = dict(line.split("=") for line in client.run(INFO, [])[0].value.splitlines())
    assert value["boot_id"] == BOOT_ID
    assert value["operations"] == "1"
    assert int(value["uptime_ms"]) > 0
    assert int(value["realtime_ns"]) > 1_600_000_000 * 10**9


@pytest.fixture
def patient(client: AgentClient) -> Iterator[AgentClient]:
    """A client that gives no windows by itself."""
    client.give_windows = False
    yield client
    client.give_windows = True


def test_the_agent_keeps_to_the_window(patient: AgentClient) -> None:
    stream = patient.open(EXEC, [(1, b"head -c 1000000 /dev/zero; echo over >&2")])
    while len(stream.stdout) < FIRST_WINDOW:
        patient.handle()
    # Another stream is answered meanwhile, and nothing more has come on this one.
    assert patient.run(INFO, [])[0].status == DONE
    assert len(stream.stdout) == FIRST_WINDOW
    patient.send(frame(WINDOW, stream.number, u32(1)))
    patient.handle()
    assert len(stream.stdout) == FIRST_WINDOW + 1
    patient.send(frame(WINDOW, stream.number, u32(1_000_000)))
    assert patient.finish(stream).code == 0
    assert len(stream.stdout) == 1_000_000
    assert stream.stderr == b"over\n"


def test_the_channels_share_the_window(patient: AgentClient) -> None:
    stream = patient.open(EXEC, [(1, b"head -c 200000 /dev/zero >&2; head -c 200000 /dev/zero")])
    while len(stream.stdout) + len(stream.stderr) < FIRST_WINDOW:
        patient.handle()
    assert patient.run(INFO, [])[0].status == DONE
    assert len(stream.stdout) + len(stream.stderr) == FIRST_WINDOW
    patient.send(frame(WINDOW, stream.number, u32(200_000)))
    assert patient.finish(stream).code == 0


def test_a_host_that_does_not_read_holds_up_only_itself(agent_socket: Path) -> None:
    with AgentClient(agent_socket) as lazy:
        for number in range(1, 50):
            lazy.open(EXEC, [(1, b"cat /dev/zero")])
            lazy.send(frame(WINDOW, number, u32(1 << 30)))
        with AgentClient(agent_socket) as client:
            assert client.sh("echo on")[1].stdout == b"on\n"
