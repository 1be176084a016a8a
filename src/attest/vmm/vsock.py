"""Connections to a port in a guest over vsock: the VMM's own, or the host kernel's.

Firecracker and Cloud Hypervisor serve hybrid vsock, a Unix socket. The host connects to it, writes
``CONNECT port`` and reads ``OK number``; what follows is the guest's. With vhost-vsock, which QEMU
can use, the host's kernel connects to a guest by its number.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attest.vmm.dial import FailedError, Reason, VmmEndedError
from attest.vmm.unix import connect, readable

__all__ = ["AGENT_PORT", "HybridVsock"]

AGENT_PORT: Final = 1024
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


@dataclass(frozen=True)
class HybridVsock:
    """Attempts to connect to a port in a guest through a VMM's Unix socket.

    Attributes:
        path: The VMM's socket.
        port: The guest's port.
    """

    path: Path
    port: int = AGENT_PORT

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
            raise FailedError(_impossible(error)) from None
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


def _impossible(error: OSError) -> Reason:
    return Reason(f"not connected: {error.strerror}", "this user must be able to use the socket")
