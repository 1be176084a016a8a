"""One session with an agent: the socket, the thread that reads it, and the operations under way.

One thread reads; any thread writes. The reader never writes and never waits for a user, so a guest
that does not read, or a user who does not take his output, holds up nobody else.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from attest.errors import ChannelError, reason_of
from attest.guest.agent.protocol import (
    HEADER,
    MAX_PAYLOAD,
    NONCE_SIZE,
    PADDING,
    VERSION,
    Frame,
    FrameParser,
    FrameType,
    Operation,
    ProtocolError,
    Result,
    decode_note,
    decode_welcome,
    decode_window,
    encode_frame,
    encode_hello,
)
from attest.guest.agent.stream import Stream
from attest.guest.channel import Welcome
from attest.support.text import plain_text

__all__ = ["Session"]

_READ_SIZE: Final = 262_144
_LARGEST_FRAME: Final = HEADER.size + MAX_PAYLOAD
_CLOSED: Final = "the machine closed its agent's connection"


class Session:
    """One session.

    Args:
        machine: The machine's name, for errors.
        sock: The connection to the agent. The session works on a duplicate, so that whoever else
            closes it cannot make it read another file.
        on_closed: Called, in the reader thread, when the session has ended by itself.
        grace: The seconds for what an agent that is alive does at once.
    """

    def __init__(
        self,
        machine: str,
        sock: socket.socket,
        on_closed: Callable[[ChannelError], None] | None,
        *,
        grace: float,
    ) -> None:
        self._machine = machine
        self._on_closed = on_closed
        self._grace = grace
        self._sock = sock.dup()
        self._sock.setblocking(False)
        self._writer = _Writer(self._sock)
        self._end_signal = os.eventfd(0, os.EFD_CLOEXEC)
        self._nonce = os.urandom(NONCE_SIZE)
        self._parser = FrameParser(self._nonce)
        self._welcomed = threading.Event()
        self._welcome: Welcome | None = None
        self._answered = False
        self._ended = threading.Event()
        self._reason = ""
        self._lock = threading.Lock()  # of the two below
        self._streams: dict[int, Stream] = {}
        self._last_number = 0
        self._write_lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"agent {machine}", daemon=True)

    def connect(self, timeout: float, *, padding: bool) -> Welcome:
        """Greet the agent and wait for its answer.

        Args:
            timeout: Seconds.
            padding: Complete the frame that an earlier session may have left half-sent.

        Raises:
            ChannelError: It did not answer, or speaks another version of the protocol.
        """
        until = time.monotonic() + timeout
        with self._lock:
            if self._reason:
                raise self.error()
            self._reader.start()  # under the lock: `end` must know whether there is one to wait for
        try:
            self._write((PADDING if padding else b"", encode_hello(self._nonce)), until)
        except TimeoutError:
            self._fail(self._no_welcome(timeout, "the agent did not read the HELLO"))
        except ChannelError:
            pass  # the session has ended, which is told below
        if not self._welcomed.wait(until - time.monotonic()):
            self._fail(self._no_welcome(timeout, "HELLO was sent"))
        if self._welcome is None or self._reason:
            error = self.error()
            error.silent = not self._answered
            raise error
        return self._welcome

    def open(
        self,
        operation: Operation,
        fields: bytes = b"",
        *,
        input_follows: bool = True,
        until: float | None = None,
    ) -> Stream:
        """Start an operation, which takes data if ``input_follows``; see `send` for ``until``.

        Raises:
            ChannelError: The session has ended.
            UsageError: The request is too large.
        """
        with self._lock:
            if self._welcome is None or self._reason:
                raise self.error()
            number = self._free_number()
            frame = encode_frame(FrameType.OPEN, number, bytes([operation]) + fields)
            stream = Stream(number, self.send, input_follows=input_follows, grace=self._grace)
            self._streams[number] = stream
        try:
            self.send(frame, until)
        except BaseException:
            stream.abandon()  # it may have been sent
            raise
        return stream

    def send(self, frame: bytes, until: float | None = None) -> None:
        """Send a frame.

        Args:
            frame: The frame.
            until: When, on the monotonic clock, to end the session of an agent that reads nothing.

        Raises:
            ChannelError: The session has ended.
        """
        try:
            self._write((frame,), until)
        except TimeoutError:
            self._fail("the agent no longer reads what it is sent")
            raise self.error() from None

    def error(self) -> ChannelError:
        """A new error that says why the session has ended."""
        return ChannelError(self._machine, self._reason or "the agent has not been greeted yet")

    def end(self, reason: str) -> None:
        """End the session and its thread; whoever waits gets an error that says ``reason``."""
        self._fail(reason)
        if self._reader.ident is not None and self._reader is not threading.current_thread():
            self._reader.join()
        with self._write_lock:
            self._writer.close()
            if self._end_signal >= 0:
                os.close(self._end_signal)
                self._end_signal = -1
            self._sock.close()

    def _fail(self, reason: str) -> bool:
        """Fail everything under way; False when the session had ended before."""
        with self._lock:
            if self._reason:
                return False
            self._reason = reason
            streams = list(self._streams.values())
            self._streams.clear()
            os.eventfd_write(self._end_signal, 1)
        for stream in streams:
            stream.fail(self.error)
        self._ended.set()
        self._welcomed.set()
        return True

    def _free_number(self) -> int:
        while True:
            self._last_number = self._last_number % 0xFFFFFFFF + 1
            if self._last_number not in self._streams:
                return self._last_number

    # Writing

    def _write(self, parts: tuple[bytes, ...], until: float | None) -> None:
        left = -1 if until is None else max(0.0, until - time.monotonic())
        if not self._write_lock.acquire(timeout=left):
            raise TimeoutError
        try:
            if self._reason:
                raise self.error()
            self._flush(until)  # the rest of a frame whose sender was interrupted
            for part in parts:
                self._writer.write(part)
                self._flush(until)
        except ConnectionError:
            self._ended.wait(1)  # the reader may find the agent's last words
            self._fail(_CLOSED)
            raise self.error() from None
        finally:
            self._write_lock.release()

    def _flush(self, until: float | None) -> None:
        while not self._writer.flush():
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            poll.register(self._end_signal, select.POLLIN)
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            if not poll.poll(left):
                raise TimeoutError
            if self._reason:
                raise self.error()

    # Reading

    def _read(self) -> None:
        try:
            reason = self._read_frames()
        except ProtocolError as error:
            reason = f"the agent broke the protocol: {error}"
        except OSError as error:
            reason = f"the connection to the agent failed: {error.strerror or reason_of(error)}"
        if self._fail(reason) and self._on_closed is not None:
            self._on_closed(self.error())

    def _read_frames(self) -> str:
        buffer = memoryview(bytearray(_READ_SIZE))
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._end_signal, select.POLLIN)
        while True:
            poll.poll()
            if self._reason:
                return self._reason
            try:
                size = self._sock.recv_into(buffer)
            except BlockingIOError:
                continue
            if size == 0:
                return _CLOSED
            for frame in self._parser.feed(buffer[:size]):
                self._answered = True
                if frame.type is FrameType.ERROR:
                    text = plain_text(frame.payload.decode(errors="replace"))
                    return f"the agent ended the session: {text}"
                self._dispatch(frame)

    def _dispatch(self, frame: Frame) -> None:
        if frame.type is FrameType.WELCOME and self._welcome is None:
            self._greeted(decode_welcome(frame.payload))
            return
        stream = self._stream(frame)
        match frame.type:
            case FrameType.DATA:
                stream.data_came(frame.channel, frame.payload)
            case FrameType.EOF:
                stream.eof_came(frame.channel)
            case FrameType.WINDOW:
                stream.window_came(decode_window(frame.payload))
            case FrameType.NOTE:
                stream.note_came(decode_note(frame.payload))
            case FrameType.RESULT:
                stream.result_came(Result.decode(frame.payload))
                with self._lock:
                    self._streams.pop(frame.stream, None)
            case _:
                raise ProtocolError(f"unexpected {frame.type.name} frame")

    def _greeted(self, welcome: Welcome) -> None:
        if welcome.version != VERSION:
            older = "the agent" if welcome.version < VERSION else "this attest"
            raise ProtocolError(
                f"it speaks version {welcome.version}, this attest version {VERSION}; "
                f"{older} is older: build the machine's image again"
            )
        self._welcome = welcome
        self._welcomed.set()

    def _stream(self, frame: Frame) -> Stream:
        with self._lock:
            stream = self._streams.get(frame.stream)
        if stream is None:
            raise ProtocolError(f"{frame.type.name} frame for unknown stream {frame.stream}")
        return stream

    def _no_welcome(self, timeout: float, tried: str) -> str:
        other = self._parser.discarded
        seen = f"{other} bytes of something else came" if other else "nothing came"
        if other:
            seen += f", the last: {plain_text(self._parser.remains.decode(errors='replace'))!r}"
        return f"the agent did not answer in {round(timeout, 2):g} s ({tried}; {seen})"


class _Writer:
    """Writes to a non-blocking socket, and keeps count when a signal's handler raises in between.

    `io.BufferedWriter` over `io.FileIO` counts in C what the kernel took, so a frame that
    KeyboardInterrupt cut in two is completed by the next flush. With `socket.send` an interrupt
    between the call and the bookkeeping would corrupt the stream for every other thread.
    """

    def __init__(self, sock: socket.socket) -> None:
        raw = io.FileIO(sock.fileno(), "wb", closefd=False)
        self._buffer = io.BufferedWriter(raw, _LARGEST_FRAME + 1)

    def write(self, data: bytes) -> None:
        """Take data to send; all that was taken before must have been flushed."""
        self._buffer.write(data)

    def flush(self) -> bool:
        """Send what the kernel takes; True when nothing is left."""
        try:
            self._buffer.flush()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Forget what is left."""
        with contextlib.suppress(OSError):
            self._buffer.close()
