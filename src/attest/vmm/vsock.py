"""Reaching a port in a guest through hybrid vsock.

Firecracker and Cloud Hypervisor serve a Unix socket. The host connects to it, writes
``CONNECT port`` and reads ``OK number``; what follows is the guest's. Each step can fail while a
guest boots, and for the same reason when it never will; so all attempts are remembered with their
reasons, and the error tells them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attest.vmm.base import DialError
from attest.vmm.process import WatchedProcess
from attest.vmm.unix import connect, readable

__all__ = ["dial"]

_ATTEMPT: Final = 2.5
"""Seconds for one attempt: VMMs themselves give up on a guest that does not answer after 2 s."""

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25

_LONGEST_ANSWER: Final = 32
"""Bytes of the line that answers a ``CONNECT``, at most."""


@dataclass(frozen=True)
class _Reason:
    """Why an attempt failed: what was seen, and what to do when it stays so."""

    seen: str
    advice: str


_MISSING: Final = _Reason(
    "the socket's file is missing",
    "the VMM makes it with the vsock device: look for why in its log",
)
_REFUSED: Final = _Reason(
    "refused, as nobody listens on the socket",
    "the file is left over from a VMM that has gone",
)
_CLOSED: Final = _Reason(
    "accepted, and closed before OK",
    "usual while a guest boots or its vsock was reset; else nobody listens on that port in the "
    "guest: look in its console for why the agent does not run",
)
_SILENT: Final = _Reason(
    "accepted, and no answer",
    "the guest's vsock driver has not started, or is stuck: look at its console, and whether its "
    "initrd has the modules vsock and vmw_vsock_virtio_transport",
)


class _Failed(Exception):
    """An attempt failed."""

    def __init__(self, reason: _Reason) -> None:
        super().__init__(reason.seen)
        self.reason = reason


class _Ended(Exception):
    """The VMM has ended while an attempt was under way."""


@dataclass
class _Tally:
    """How often a reason was seen; the times are seconds since the start."""

    reason: _Reason
    first: float
    last: float = 0
    count: int = 0

    def __str__(self) -> str:
        when = f"once, at {self.first:.2f} s"
        if self.count > 1:
            when = f"{self.count} times, from {self.first:.2f} s to {self.last:.2f} s"
        return f"{self.reason.seen}: {when} ({self.reason.advice})"


def dial(
    path: Path, port: int, timeout: float, *, vmm: WatchedProcess, console: Callable[[], str]
) -> socket.socket:
    """Connect to a port in a guest.

    Args:
        path: The VMM's socket.
        port: The guest's port.
        timeout: Seconds until it must be reached; no attempt takes more than a few of them.
        vmm: Its process; when that ends, so does this, at once.
        console: What the guest's console says of its death, such as a kernel panic; asked after
            each attempt. Empty: it lives.

    Returns:
        The connection, of which nothing has been read that comes from the guest.

    Raises:
        DialError: It was not reached, with the last reason; its attempts are all reasons, each with
            how often and when it was seen, and what to do about it.
    """
    return _Dialling(path, port, timeout, vmm, console).run()


class _Dialling:
    """The attempts of one `dial`."""

    def __init__(
        self, path: Path, port: int, timeout: float, vmm: WatchedProcess, console: Callable[[], str]
    ) -> None:
        self._path = path
        self._port = port
        self._timeout = timeout
        self._vmm = vmm
        self._console = console
        self._started = time.monotonic()
        self._tallies: list[_Tally] = []

    def run(self) -> socket.socket:
        if self._vmm.exit is not None:
            raise self._ended()
        try:
            end = os.pidfd_open(self._vmm.pid)  # readable when it has ended
        except ProcessLookupError:
            raise self._ended() from None
        try:
            return self._until_reached(end)
        finally:
            os.close(end)

    def _until_reached(self, end: int) -> socket.socket:
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._attempt(end)
            except _Ended:
                raise self._ended() from None
            except _Failed as failure:
                self._count(failure.reason)
            if said := self._console():
                raise self._error(f"the guest is dead: {said}")
            if readable([end], min(pause, self._left())):  # the pause
                raise self._ended()
            if self._left() <= 0:
                seen = self._tallies[-1].reason.seen
                raise self._error(f"not reached in {self._timeout:g} s: {seen}")
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _attempt(self, end: int) -> socket.socket:
        limit = max(min(_ATTEMPT, self._left()), 0.001)
        until = time.monotonic() + limit
        try:
            sock = connect(self._path, limit)
        except FileNotFoundError:
            raise _Failed(_MISSING) from None
        except ConnectionRefusedError:
            raise _Failed(_REFUSED) from None
        except (TimeoutError, BlockingIOError):  # the listener's queue is full: it accepts none
            raise _Failed(_SILENT) from None
        except OSError as error:
            raise _Failed(_impossible(error)) from None
        try:
            # In one write: Firecracker drops a connection whose first read brings but a part.
            sock.sendall(b"CONNECT %d\n" % self._port)
            _read_ok(sock, until, end)
        except (BrokenPipeError, ConnectionResetError):
            sock.close()
            raise _Failed(_CLOSED) from None
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock

    def _count(self, reason: _Reason) -> None:
        now = time.monotonic() - self._started
        tally = next((each for each in self._tallies if each.reason == reason), None)
        if tally is None:
            tally = _Tally(reason, first=now)
        else:
            self._tallies.remove(tally)  # the last reason goes last
        tally.count += 1
        tally.last = now
        self._tallies.append(tally)

    def _left(self) -> float:
        return self._started + self._timeout - time.monotonic()

    def _ended(self) -> DialError:
        return self._error(f"the VMM ended ({self._vmm.wait()})")

    def _error(self, why: str) -> DialError:
        message = f"cannot connect to port {self._port} in the guest: {why}"
        return DialError(message, [str(tally) for tally in self._tallies])


def _read_ok(sock: socket.socket, until: float, end: int) -> None:
    """Read the answer, exactly to its newline: what follows may be there already."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_ANSWER:
        ready = readable([sock.fileno(), end], until - time.monotonic())
        if sock.fileno() not in ready:
            raise _Ended if ready else _Failed(_SILENT)
        byte = sock.recv(1)
        if not byte:
            raise _Failed(_CLOSED)
        line += byte
    if not line.startswith(b"OK ") or not line.endswith(b"\n"):
        raise _Failed(_answered(line))


def _answered(line: bytes) -> _Reason:
    said = line.decode(errors="replace").rstrip()
    return _Reason(f"answered {said!r} instead of OK", "what listens there is no hybrid vsock")


def _impossible(error: OSError) -> _Reason:
    return _Reason(f"not connected: {error.strerror}", "this user must be able to use the socket")
