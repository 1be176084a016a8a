"""A command under way in a machine."""

from __future__ import annotations

import threading
from typing import IO, BinaryIO, Final

from attest.errors import ChannelError, MachineError
from attest.guest.agent.protocol import (
    WINDOW,
    FrameType,
    Result,
    Status,
    encode_frame,
    encode_terminal_size,
)
from attest.guest.agent.stream import NOTE, Limit, Stream, StreamEnded
from attest.guest.channel import Completed, Follower, Sink
from attest.support.durations import Duration, limit
from attest.support.polling import deadline
from attest.support.text import plain_text

__all__ = ["Process"]

_IN_MEMORY: Final = 1 << 20
"""Bytes of output that are collected in memory; more goes to a temporary file."""

_PIECE: Final = 65_536


class Process:
    """A command under way.

    Its output is taken by whoever calls `read` or `wait`; until then the command can print a
    quarter of a MiB before it has to wait. Methods can be called from several threads.

    Args:
        machine: The machine's name, for errors.
        stream: The command's stream.
        command: The command, for errors.
        limit: How long the agent may take to end it.
        stdout: Takes its output; None collects it.
        stderr: Takes its errors; None collects them.
        follower: Is told of it by whoever takes its output.
    """

    def __init__(
        self,
        machine: str,
        stream: Stream,
        command: str,
        *,
        limit: Limit,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        follower: Follower | None = None,
    ) -> None:
        self._machine = machine
        self._stream = stream
        self._command = command
        self._limit = limit
        self._collected = (_Collected(), _Collected())
        self._sinks = (stdout or self._collected[0], stderr or self._collected[1])
        self._follower = follower
        self._taking = threading.RLock()
        self._completed: Completed | None = None
        self._feed_error: BaseException | None = None

    def write(self, data: bytes) -> None:
        """Write to its standard input, as fast as the command reads.

        Raises:
            BrokenPipeError: The command has ended, or its input, or it has none.
            ChannelError: The session has ended.
        """
        try:
            self._stream.write(data)
        except StreamEnded:
            message = f"{self._machine}: `{self._command}` takes no more input"
            raise BrokenPipeError(message) from None

    def close_stdin(self) -> None:
        """End its standard input."""
        self._stream.write_eof()

    def feed(self, source: bytes | BinaryIO) -> None:
        """Write all of ``source`` to its standard input and end that, in a thread where need be."""
        if isinstance(source, bytes) and len(source) <= WINDOW:
            self._feed(source)  # fits into the window, so nothing can wait
            return
        threading.Thread(
            target=self._feed, args=(source,), name=f"stdin {self._machine}", daemon=True
        ).start()

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""
        if not self._stream.ended:
            size = encode_terminal_size(rows, columns)
            self._stream.send(encode_frame(FrameType.RESIZE, self._stream.number, size))

    def read(self, timeout: Duration | None = None) -> bytes:
        """The next standard output, waiting ``timeout`` seconds for some; empty at its end.

        Raises:
            TimeoutError: Nothing came in time.
            ChannelError: The session has ended.
        """
        until = deadline(limit(timeout, f"{self._machine}: read: timeout"))
        with self._taking:
            while (piece := self._stream.take(until)) is not None:
                channel, data = piece
                if channel == 0:
                    self._stream.taken(len(data))
                    return data
                self._hand_over(channel, data)
            return b""

    def wait(self, timeout: Duration | None = None) -> Completed:
        """Wait for its end, handing its output to the sinks meanwhile, in this thread.

        Raises:
            TimeoutError: It did not end in ``timeout`` seconds, and still runs.
            MachineError: It could not be started.
            ChannelError: The session has ended.
        """
        until = deadline(limit(timeout, f"{self._machine}: wait: timeout"))
        with self._taking:
            if self._completed is None:
                try:
                    self._take_all(until)
                except ChannelError:
                    self._drop_output()
                    raise
                except TimeoutError:
                    raise TimeoutError(f"{self._machine}: `{self._command}` still runs") from None
                self._completed = self._evaluate(self._stream.result())
            return self._completed

    def cancel(self) -> None:
        """Kill it and all that it has started; `wait` then returns."""
        self._stream.cancel()

    def abandon(self) -> None:
        """Kill it, as nobody waits for it any more."""
        self._stream.abandon()
        self._drop_output()

    def _take_all(self, until: float | None) -> None:
        with self._limit.bound(until) as end:
            while (piece := self._stream.take(end)) is not None:
                self._hand_over(*piece)
        if self._feed_error is not None:
            raise self._feed_error

    def _hand_over(self, channel: int, data: bytes) -> None:
        if channel == NOTE:
            if self._follower is not None:
                self._follower.note(data.decode())
        elif data:
            self._sinks[channel](data)
            if self._follower is not None:
                self._follower.output(channel, data)
            self._stream.taken(len(data))

    def _feed(self, source: bytes | BinaryIO) -> None:
        try:
            if isinstance(source, bytes):
                self._stream.write(source)
            else:
                while data := source.read(_PIECE):
                    self._stream.write(data)
            self._stream.write_eof()
        except (StreamEnded, ChannelError):
            pass  # whoever waits for the command learns it there
        except Exception as error:
            self._feed_error = error
            self._stream.cancel()

    def _evaluate(self, result: Result) -> Completed:
        stdout, stderr = self._drop_output()
        match result.status:
            case Status.DONE | Status.EXITED:
                return Completed(result.code, stdout, stderr)
            case Status.SIGNALLED:
                return Completed(128 + result.code, stdout, stderr, signal=result.code)
            case Status.TIMED_OUT:
                held = plain_text(result.message)
                return Completed(124, stdout, stderr, timed_out=True, signal=9, held=held)
            case Status.CANCELLED:
                return Completed(128 + 9, stdout, stderr, signal=9)
            case Status.ERROR:
                message = f"`{self._command}` could not be started: {result.message}"
                raise MachineError(self._machine, message)

    def _drop_output(self) -> tuple[bytes, bytes]:
        stdout, stderr = self._collected
        return stdout.close(), stderr.close()


class _Collected:
    """Output that nobody takes: in memory while it is small, then in a temporary file."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def __call__(self, data: bytes) -> None:
        if self._file is None:
            import tempfile  # most commands print less, and need it not

            self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - close() does
        self._file.write(data)

    def close(self) -> bytes:
        """All of it; there is none any more afterwards."""
        if self._file is None:
            return b""
        with self._file as file:
            self._file = None
            file.seek(0)
            return file.read()
