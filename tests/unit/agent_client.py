"""A raw client of the agent protocol, from docs/agent-protocol.md alone: it checks that too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "agent"

MAGIC = b"attest-agent\r\n\x1a\n"
HELLO, WELCOME, OPEN, DATA, EOF, WINDOW, CANCEL, RESIZE, RESULT, ERROR, NOTE = range(1, 12)
EXEC, WAIT, PUT, GET, CONNECT, IDENTITY, POWER, INFO = range(1, 9)
DONE, EXITED, KILLED, TIMED_OUT, CANCELLED, FAILED = range(6)
STATUS_NAMES = ("DONE", "EXITED", "KILLED", "TIMED_OUT", "CANCELLED", "FAILED")
FIRST_WINDOW = 262_144
PATIENCE = 30.0
"""Seconds after which a test gives up on an agent that does not answer."""

Fields = list[tuple[int, bytes]]


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame, header and payload."""
    return struct.pack("<BBBBII", 0xA7, kind, flags, 0, stream, len(payload)) + payload


def encode(fields: Fields) -> bytes:
    """Fields as bytes."""
    return b"".join(struct.pack("<BI", tag, len(value)) + value for tag, value in fields)


def decode(payload: bytes) -> Fields:
    """Bytes as fields."""
    fields = []
    while payload:
        tag, length = struct.unpack_from("<BI", payload)
        assert len(payload) >= 5 + length
        fields.append((tag, payload[5 : 5 + length]))
        payload = payload[5 + length :]
    return fields


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


@dataclass
class Result:
    """A RESULT frame."""

    status: int
    code: int | None = None
    message: str = ""
    errno: int | None = None
    value: str = ""
    state: str = ""

    def __str__(self) -> str:
        return f"{STATUS_NAMES[self.status]} code={self.code} errno={self.errno} {self.message!r}"


@dataclass
class Stream:
    """What has come on one stream."""

    number: int
    output: dict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    ended: set[int] = field(default_factory=set)
    frames: int = 0
    window: int = FIRST_WINDOW
    result: Result | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def stdout(self) -> bytes:
        return bytes(self.output[0])

    @property
    def stderr(self) -> bytes:
        return bytes(self.output[1])


class SessionEnded(Exception):
    """The agent sent ERROR, or closed the connection (empty text)."""


class AgentClient:
    """A session with an agent over a Unix socket."""

    def __init__(self, path: Path, *, hello: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.received = bytearray()
        self.streams: dict[int, Stream] = {}
        self.next_stream = 1
        self.give_windows = True
        self.welcome: dict[int, str] = {}
        self.version = 0
        if hello:
            self.hello()

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hello(self, *, padding: int = 0, version: int = 3) -> None:
        """Begin a session: everything before this HELLO's WELCOME is discarded."""
        nonce = os.urandom(16)
        self.streams.clear()
        hello = frame(HELLO, 0, MAGIC + nonce + struct.pack("<H", version))
        self.send(b"\0" * padding + hello)
        while True:
            at = self.received.find(nonce)
            if at >= 12:
                break
            self._receive()
        del self.received[: at - 12]
        kind, _, stream, payload = self._next_frame()
        assert (kind, stream) == (WELCOME, 0)
        (self.version,) = struct.unpack_from("<H", payload, 16)
        self.welcome = {tag: value.decode() for tag, value in decode(payload[18:])}

    def send(self, data: bytes) -> None:
        """Send bytes as they are, reading meanwhile, so that neither end waits for the other."""
        self.socket.setblocking(False)
        view = memoryview(data)
        while view:
            readable, writable, _ = select.select([self.socket], [self.socket], [], PATIENCE)
            assert readable or writable, "the agent neither reads nor writes"
            if writable:
                view = view[self.socket.send(view) :]
            elif readable:
                self._receive()

    def open(self, operation: int, fields: Fields) -> Stream:
        """Start an operation."""
        stream = Stream(self.next_stream)
        self.next_stream += 1
        self.streams[stream.number] = stream
        self.send(frame(OPEN, stream.number, bytes([operation]) + encode(fields)))
        return stream

    def data(self, stream: Stream, data: bytes) -> None:
        """Send DATA within the stream's window."""
        while data:
            while not stream.window and stream.result is None:
                self.handle()
            if stream.result is not None:
                return
            part = data[: min(65536, stream.window)]
            stream.window -= len(part)
            self.send(frame(DATA, stream.number, part))
            data = data[len(part) :]

    def eof(self, stream: Stream) -> None:
        self.send(frame(EOF, stream.number))

    def cancel(self, stream: Stream) -> None:
        self.send(frame(CANCEL, stream.number))

    def finish(self, stream: Stream) -> Result:
        """Handle frames until the stream's RESULT is there."""
        while stream.result is None:
            self.handle()
        return stream.result

    def run(self, operation: int, fields: Fields) -> tuple[Result, Stream]:
        stream = self.open(operation, fields)
        return self.finish(stream), stream

    def sh(self, command: str | bytes, *more: tuple[int, bytes]) -> tuple[Result, Stream]:
        """Run a shell command to its end."""
        text = command.encode() if isinstance(command, str) else command
        return self.run(EXEC, [(1, text), *more])

    def drain(self) -> None:
        """Handle frames until the session ends, which raises."""
        while True:
            self.handle()

    def handle(self) -> tuple[int, Stream | None]:
        """Handle one frame; its type and stream."""
        kind, flags, number, payload = self._next_frame()
        if kind == ERROR:
            raise SessionEnded(payload.decode())
        stream = self.streams[number]
        stream.frames += 1
        if kind == DATA:
            assert flags not in stream.ended, "DATA after EOF"
            assert len(payload) <= 65536
            stream.output[flags] += payload
            if self.give_windows and payload:
                self.send(frame(WINDOW, number, u32(len(payload))))
        elif kind == EOF:
            stream.ended.add(flags)
        elif kind == WINDOW:
            stream.window += int.from_bytes(payload, "little")
        elif kind == NOTE:
            stream.notes.append(payload.decode())
        else:
            assert kind == RESULT
            stream.result = self._result(payload)
        return kind, stream

    def pending(self, seconds: float) -> bool:
        """Whether a frame's bytes are there, or come within so many seconds."""
        return bool(self.received) or bool(select.select([self.socket], [], [], seconds)[0])

    @staticmethod
    def _result(payload: bytes) -> Result:
        fields = dict(decode(payload))
        number = {tag: int.from_bytes(fields[tag], "little") for tag in (1, 2, 4) if tag in fields}
        text = {tag: fields[tag].decode() for tag in (3, 5, 6) if tag in fields}
        return Result(
            number[1],
            number.get(2),
            text.get(3, ""),
            number.get(4),
            text.get(5, ""),
            text.get(6, ""),
        )

    def _next_frame(self) -> tuple[int, int, int, bytes]:
        self._need(12)
        magic, kind, flags, reserved, stream, length = struct.unpack_from("<BBBBII", self.received)
        assert (magic, reserved) == (0xA7, 0)
        assert length <= 262_144
        self._need(12 + length)
        payload = bytes(self.received[12 : 12 + length])
        del self.received[: 12 + length]
        return kind, flags, stream, payload

    def _need(self, size: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.received) < size:
            assert time.monotonic() < deadline, "the agent did not answer"
            self._receive()

    def _receive(self) -> None:
        assert select.select([self.socket], [], [], PATIENCE)[0], "the agent did not answer"
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            raise SessionEnded("")
        self.received += data


def build(target: str) -> None:
    """Make one of the agent's targets for this host."""
    if not (shutil.which("gcc") and shutil.which("make")):
        pytest.skip("needs gcc and make")
    with (SOURCES / "Makefile").open() as makefile:
        fcntl.flock(makefile, fcntl.LOCK_EX)  # what two make at once, one of them may run already
        done = subprocess.run(
            ["make", "--no-print-directory", "-C", SOURCES, target], capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def built_agent(target: str) -> Path:
    """The agent that gcc compiles: `asan` or, optimised, `native`."""
    build(target)
    return SOURCES / "build" / f"attest-agent-{target}"


def sanitized_agent() -> Path:
    """The agent with the address and undefined behaviour sanitizers."""
    return built_agent("asan")


def await_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when something accepts connections there."""
    pause = 0.001
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    raise AssertionError(f"the agent does not listen on {path} (exit code {process.poll()})")


@contextlib.contextmanager
def running_agent(
    path: Path, *, prefix: Sequence[str] = (), target: str = "asan"
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that listens on a socket; the sanitizers must have found nothing when it ends."""
    command = [*prefix, str(built_agent(target)), "--unix", str(path)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            await_socket(path, process)
            yield process
        finally:
            process.terminate()
            assert process.stderr is not None
            errors = process.stderr.read().decode()
    assert process.returncode == 0, errors
    assert "runtime error" not in errors, errors


@pytest.fixture(scope="module")
def agent_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an agent that runs as the user of the tests."""
    path = tmp_path_factory.mktemp("agent") / "socket"
    with running_agent(path):
        yield path


@pytest.fixture
def client(agent_socket: Path) -> Iterator[AgentClient]:
    """A new session with that agent."""
    with AgentClient(agent_socket) as client:
        yield client


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
