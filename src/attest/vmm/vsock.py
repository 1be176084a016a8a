"""Connections to a port in a guest over vsock: the VMM's own, or the host kernel's.

Firecracker and Cloud Hypervisor serve hybrid vsock, a Unix socket. The host connects to it, writes
``CONNECT port`` and reads ``OK number``; what follows is the guest's. With vhost-vsock, which QEMU
can use, the host's kernel connects to a guest by its number.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from pathlib import Path
from typing import Final

import msgspec

from attest.errors import HostError
from attest.support.nix_sandbox import remedy
from attest.support.unix_sockets import connect, readable
from attest.vmm.dial import FailedError, Reason, VmmEndedError

__all__ = ["AGENT_VSOCK_PORT", "HostVsock", "HybridVsock", "check_vhost_vsock"]

AGENT_VSOCK_PORT: Final = 1024
"""The vsock port on which the guest's agent listens."""

_LONGEST_ANSWER: Final = 32
"""Bytes of the line that answers a ``CONNECT``, at most."""

_MISSING: Final = Reason(
    "the socket's file is missing",
    "the VMM makes it with the vsock device: look for why in its log",
)
_REFUSED: Final = Reason(
    "refused, as nobody listens on the socket",
    "the file is left over from a VMM that has gone",
)
_CLOSED: Final = Reason(
    "accepted, and closed before OK",
    "usual while a guest boots or its vsock was reset; else nobody listens on that port in the "
    "guest: look in its console for why the agent does not run",
)
_SILENT: Final = Reason(
    "accepted, and no answer",
    "the guest's vsock driver has not started, or is stuck: look at its console, and whether its "
    "initrd has the modules vsock and vmw_vsock_virtio_transport",
)

_NO_GUEST: Final = Reason(
    "no guest has that number",
    "QEMU takes the number when it starts: look for why it did not",
)
_RESET: Final = Reason(
    "reset by the guest",
    "usual while a guest boots; else nobody listens on that port in the guest: look in its console "
    "for why the agent does not run",
)
_HOST_REASONS: Final = {
    errno.ECONNRESET: _RESET,
    errno.ECONNREFUSED: _RESET,
    errno.ETIMEDOUT: _SILENT,
    errno.ENODEV: _NO_GUEST,
    errno.EHOSTUNREACH: _NO_GUEST,
}
"""What the kernel's errors mean when a connection to a guest fails."""

_DEVICE: Final = Path("/dev/vhost-vsock")


class HybridVsock(msgspec.Struct, frozen=True):
    """Attempts to connect to a port in a guest through a VMM's Unix socket.

    Attributes:
        path: The VMM's socket.
        port: The guest's port.
    """

    path: Path
    port: int = AGENT_VSOCK_PORT

    def __call__(self, limit: float, end: int) -> socket.socket:
        """One attempt, see `attest.vmm.dial.Connect`.

        Returns:
            The connection, of which nothing has been read that comes from the guest.
        """
        until = time.monotonic() + limit
        try:
            sock = connect(self.path, limit)
        except FileNotFoundError:
            raise FailedError(_MISSING) from None
        except ConnectionRefusedError:
            raise FailedError(_REFUSED) from None
        except (TimeoutError, BlockingIOError):  # the listener's queue is full: it accepts none
            raise FailedError(_SILENT) from None
        except OSError as error:
            raise FailedError(_impossible(error.errno or 0)) from None
        try:
            # In one write: Firecracker drops a connection whose first read brings but a part.
            sock.sendall(b"CONNECT %d\n" % self.port)
            _read_ok(sock, until, end)
        except (BrokenPipeError, ConnectionResetError):
            sock.close()
            raise FailedError(_CLOSED) from None
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock


class HostVsock(msgspec.Struct, frozen=True):
    """Attempts to connect to a port in a guest through the host kernel's vsock, see vsock(7).

    Attributes:
        cid: The guest's number.
        port: The guest's port.
    """

    cid: int
    port: int = AGENT_VSOCK_PORT

    def __call__(self, limit: float, end: int) -> socket.socket:
        """One attempt, see `attest.vmm.dial.Connect`."""
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            error = sock.connect_ex((self.cid, self.port))
            if error == errno.EINPROGRESS:
                error = _connected(sock, limit, end)
            if error:
                raise FailedError(_HOST_REASONS.get(error) or _impossible(error))
        except BaseException:
            sock.close()
            raise
        sock.setblocking(True)
        return sock


def _connected(sock: socket.socket, limit: float, end: int) -> int:
    """Wait for the connection; returns the error's number, or 0."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    poll.register(end, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(limit * 1000)}
    if sock.fileno() not in ready:
        raise VmmEndedError if ready else FailedError(_SILENT)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def check_vhost_vsock() -> None:
    """Require what QEMU needs for vsock.

    Raises:
        HostError: This host does not let the user have it.
    """
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise HostError(
            f'`channel = "vsock"`: {_DEVICE} does not exist',
            hint=remedy(_DEVICE, "as root: modprobe vhost_vsock"),
        ) from None
    except OSError as error:
        raise HostError(
            f'`channel = "vsock"`: {_DEVICE}: {error.strerror}',
            hint="this user must be in the group that has it, mostly kvm",
        ) from None


def _read_ok(sock: socket.socket, until: float, end: int) -> None:
    """Read the answer, exactly to its newline: what follows may be there already."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_ANSWER:
        ready = readable([sock.fileno(), end], until - time.monotonic())
        if sock.fileno() not in ready:
            raise VmmEndedError if ready else FailedError(_SILENT)
        byte = sock.recv(1)
        if not byte:
            raise FailedError(_CLOSED)
        line += byte
    if not line.startswith(b"OK ") or not line.endswith(b"\n"):
        raise FailedError(_answered(line))


def _answered(line: bytes) -> Reason:
    said = line.decode(errors="replace").rstrip()
    return Reason(f"answered {said!r} instead of OK", "what listens there is no hybrid vsock")


def _impossible(error: int) -> Reason:
    return Reason(
        f"not connected: {os.strerror(error)}", "this user must be able to use the socket"
    )
