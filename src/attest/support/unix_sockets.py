"""A VMM's Unix sockets: connecting, listening, and waiting for what they bring.

A path may be longer here than the 107 bytes of sun_path.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["connect", "listen", "readable"]


def connect(path: Path, timeout: float) -> socket.socket:
    """A connection to a socket.

    Args:
        path: Where the socket is.
        timeout: Seconds; the connection keeps this limit.

    Raises:
        OSError: It failed.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        with _short(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def listen(path: Path) -> socket.socket:
    """A socket that is there from now on, and on which connections wait to be accepted.

    Raises:
        OSError: It failed.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as address:
            sock.bind(address)
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def _short(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def readable(descriptors: Iterable[int], timeout: float) -> set[int]:
    """Those that can be read without waiting, or have ended; waits for one for so many seconds."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(max(timeout, 0) * 1000)}
