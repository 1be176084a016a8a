"""One session with a backdoor shell: one command line at a time, one thread that speaks with it.

The shell is bash as root on the guest's ``/dev/hvc0``, a terminal in raw mode without echo. It
prints a greeting once. Each command's output comes as lines of base64, of which each but the last
is full, and its exit code as a line of its own.

QEMU drops what a virtual console sends while the host does not read it (``flush_buf`` in its
``hw/char/virtio-console.c`` says why). So the shell waits after each full line until it is asked
for the next: what is under way always fits into the socket between QEMU and the host. Each line
ends with its length, so that a loss would be seen all the same.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from attest.errors import ChannelError
from attest.guest.channel import Sink
from attest.support.text import plain_text

__all__ = ["NO_OUTPUT", "Request", "ShellSession", "in_lines"]

GREETING: Final = b"Spawning backdoor root shell..."

_READ_SIZE: Final = 65_536
_STATUS_SIZE: Final = 16
"""Bytes of an exit code's line, at most."""

_LINE: Final = 32_768
"""Characters of a full line of output. Linux gives a socket 212,992 bytes for what is not read yet
(``net.core.wmem_default``), of which bookkeeping takes up to a half."""

_MORE: Final = b"\n"
"""Asks for the next line of output."""

NO_OUTPUT: Final = "echo ' 0'"
"""Says that a command has no output."""

_SHOWN: Final = 200
_CLOSED: Final = "the machine closed its shell's connection"
_OVERDUE: Final = (
    "the shell no longer answers: a command is long overdue, whose output a process in the "
    "background may hold open"
)


def in_lines(command: str) -> str:
    """The command line that runs a command as the session expects it.

    Args:
        command: The command, with its redirections.
    """
    # Bash reads as many characters as it is told to in one go, and has no process to start for it.
    give = (
        f'while IFS= read -r -N {_LINE} text; do echo "$text {_LINE}"; read -r _ <&9; done;'
        ' echo "$text ${#text}"'
    )
    return f"{{ {command} 9<&- | base64 -w 0 | ({give}); echo ${{PIPESTATUS[0]}}; }} 9<&0"


class Request:
    """A command line for the shell, and what comes of it.

    Args:
        line: The line, without its end; see `in_lines`.
        limit: Seconds from its beginning in which a shell that is alive answers; None: no limit.
        sink: Takes the output; None when neither output nor exit code comes.
        data: What the command reads from the shell's own input.

    Attributes:
        status: The exit code, when it has ended.
        seconds: How long it took.
    """

    def __init__(
        self, line: str, *, limit: float | None, sink: Sink | None, data: bytes = b""
    ) -> None:
        self.line = line.encode(errors="surrogateescape") + b"\n" + data
        self.limit = limit
        self.sink = sink
        self.status: int | None = None
        self.seconds = 0.0
        self._unwanted = threading.Event()
        self._done = threading.Event()
        self._error: Callable[[], Exception] | None = None

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._unwanted.is_set()

    def cancel(self) -> None:
        """Drop it: if it has not begun it never does, and if it has its output is lost."""
        self._unwanted.set()
        self._done.set()

    def end(self, status: int, seconds: float) -> None:
        """Note that it has ended, and wake whoever waits for it."""
        self.status, self.seconds = status, seconds
        self._done.set()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Note that it will not end; whoever waits for it gets the error."""
        self._error = error
        self._done.set()

    def wait(self, timeout: float | None) -> None:
        """Wait until it has ended, or nobody wants it.

        Raises:
            TimeoutError: It has not, after ``timeout`` seconds.
            ChannelError: The session has ended.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"it has not ended in {timeout:g} s")
        if self._error is not None and not self.unwanted:
            raise self._error()


class ShellSession:
    """One session with a backdoor shell, from its greeting to its end.

    Args:
        machine: The machine's name, for errors.
        sock: The connection to the shell.
    """

    def __init__(self, machine: str, sock: socket.socket) -> None:
        self._machine = machine
        self._sock = sock.dup()
        self._sock.setblocking(False)
        self._end_signal = os.eventfd(0, os.EFD_CLOEXEC)
        self._buffer = bytearray()
        self._reason = ""
        self._connecting = threading.Lock()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._requests: deque[Request] = deque()
        self._thread = threading.Thread(target=self._serve, name=f"shell {machine}", daemon=True)

    def connect(self, timeout: float) -> None:
        """Wait for the shell's greeting.

        Raises:
            ChannelError: It did not come.
        """
        until = time.monotonic() + timeout
        with self._connecting:
            try:
                self._read_greeting(until)
            except TimeoutError:
                self._fail(f"the backdoor shell did not greet in {round(timeout, 2):g} s")
            except OSError:
                self._fail(_CLOSED)
            with self._lock:
                if self._reason:
                    raise self.error()
                self._thread.start()

    def submit(self, request: Request) -> None:
        """Let the shell run a command, when it has run those before.

        Raises:
            ChannelError: The session has ended.
        """
        with self._lock:
            if self._reason:
                raise self.error()
            self._requests.append(request)
            self._changed.notify()

    def error(self) -> ChannelError:
        """A new error that says why the session has ended."""
        return ChannelError(self._machine, self._reason)

    def end(self, reason: str) -> None:
        """End the session and its thread; whoever waits gets an error that says ``reason``."""
        self._fail(reason)
        with self._connecting:
            pass  # it has seen that
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:  # several may end it at once
            if self._end_signal >= 0:
                os.close(self._end_signal)
                self._end_signal = -1
                self._sock.close()

    def _fail(self, reason: str) -> None:
        with self._lock:
            if self._reason:
                return
            self._reason = reason
            os.eventfd_write(self._end_signal, 1)
            for request in self._requests:
                request.fail(self.error)
            self._changed.notify()

    def _read_greeting(self, until: float) -> None:
        """Skip all lines up to the greeting, such as what an earlier session has left."""
        line = bytearray()

        def take(piece: bytes) -> None:
            line.extend(piece)
            del line[:-_SHOWN]

        while not line.rstrip().endswith(GREETING):
            line.clear()
            self._read_line(take, until)

    # In the session's thread

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._requests or self._reason)
                if self._reason:
                    return
                request = self._requests[0]
            if not request.unwanted:
                try:
                    self._run(request)
                except TimeoutError:
                    self._fail(_OVERDUE)
                except OSError:
                    self._fail(_CLOSED)
                except ValueError as error:
                    self._fail(f"the shell broke the protocol: {error}")
            with self._lock:
                self._requests.popleft()

    def _run(self, request: Request) -> None:
        begun = time.monotonic()
        until = None if request.limit is None else begun + request.limit
        self._send(request.line, until)
        status = 0
        if request.sink is not None:
            output = _Output(request)
            more = True
            while more:
                text, more = self._read_text(until)
                if more:
                    self._send(_MORE, until)
                output.feed(text)
            status = self._read_status(until)
        request.end(status, time.monotonic() - begun)

    def _read_text(self, until: float | None) -> tuple[bytes, bool]:
        """A line of output, in base64, and whether another one comes."""
        line = self._read_answer(_LINE + _STATUS_SIZE, until)
        text, _, length = line.rpartition(b" ")
        if not length.isdigit():
            raise _unexpected(line)
        if len(text) != int(length):
            raise ValueError(f"of a line of {int(length)} characters came {len(text)}")
        return text, len(text) == _LINE

    def _read_status(self, until: float | None) -> int:
        line = self._read_answer(_STATUS_SIZE, until)
        if not line.strip().isdigit():
            raise _unexpected(line)
        return int(line)

    def _read_answer(self, most: int, until: float | None) -> bytes:
        """A line of ``most`` bytes at most, without its end."""
        line = bytearray()

        def take(piece: bytes) -> None:
            line.extend(piece)
            if len(line) > most:
                raise _unexpected(bytes(line))

        self._read_line(take, until)
        return bytes(line)

    def _send(self, data: bytes, until: float | None) -> None:
        view = memoryview(data)
        while view:
            self._await(select.POLLOUT, until)
            with contextlib.suppress(BlockingIOError):
                view = view[self._sock.send(view) :]

    def _read_line(self, take: Sink, until: float | None) -> None:
        """Hand over a line, without its end, in pieces."""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            self._buffer = rest
            if line:
                take(bytes(line))
            if end:
                return
            self._await(select.POLLIN, until)
            with contextlib.suppress(BlockingIOError):
                data = self._sock.recv(_READ_SIZE)
                if not data:
                    raise ConnectionError
                self._buffer += data

    def _await(self, event: int, until: float | None) -> None:
        poll = select.poll()
        poll.register(self._sock, event)
        poll.register(self._end_signal, select.POLLIN)
        while True:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            ready = poll.poll(None if left is None else min(left, 3600) * 1000)
            if self._reason:
                raise ConnectionError
            if ready:
                return


class _Output:
    """Decodes a request's output for its sink."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._wanted = True

    def feed(self, text: bytes) -> None:
        """Take a line of base64.

        Raises:
            ValueError: It is none.
        """
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise _unexpected(text) from None
        if data and self._wanted and not self._request.unwanted:
            self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        assert self._request.sink is not None
        try:
            self._request.sink(data)
        except Exception as error:  # a full disk, say: it is the business of whoever waits
            failure = error
            self._wanted = False
            self._request.fail(lambda: failure)


def _unexpected(data: bytes) -> ValueError:
    return ValueError(f"it said {plain_text(data[:_SHOWN].decode(errors='replace'))!r}")
