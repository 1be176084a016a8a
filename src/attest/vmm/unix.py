"""Connecting to a VMM's Unix sockets, and waiting for what they bring."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterable
from pathlib import Path

__all__ = ["connect", "readable"]


def connect(path: Path, timeout: float) -> socket.socket:
    """A connection to a Unix socket, whose address may be longer than the 107 bytes of sun_path.

    Args:
        path: Where the socket is.
        timeout: Seconds; the connection keeps this limit.

    Raises:
        OSError: It failed.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
    except BaseException:
        sock.close()
        raise
    return sock


def readable(descriptors: Iterable[int], timeout: float) -> set[int]:
    """Those that can be read without waiting, or have ended; waits for one for so many seconds."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(max(timeout, 0) * 1000)}
