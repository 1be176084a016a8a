"""A network switch for programs that speak VDE's protocol, such as QEMU's ``-netdev vde``.

    python -m attest.net.vde LISTENER DIRECTORY [TAP]

It runs in the cell, and dies with it. LISTENER is the descriptor of the listening socket, which is
``ctl`` in DIRECTORY. Whoever connects there names, in a request of a fixed form, the datagram
socket on which it wants to receive frames; it is told the one to which it shall send them; and it
is on the network until it closes the connection. TAP is an interface that joins the switch to a
bridge.

The protocol is that of libvdeplug 2 and 4 (version 3 of its requests), whose structures
`REQUEST` and `ADDRESS` are.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

__all__ = ["join"]

ADDRESS: Final = struct.Struct("=H108s")
"""The address family and the path of a Unix socket."""

REQUEST: Final = struct.Struct("=III")
"""What comes before the address in a request: magic number, version, and kind."""

_MAGIC: Final = 0xFEEDFACE
_VERSION: Final = 3
_NEW_PORT: Final = 0
"""Kind of a request for any port; the upper bits would ask for one by its number."""

_FRAME: Final = 65_536
"""Bytes of a frame, at most: cards that leave segmentation to others send large ones."""

_WAITING: Final = 256
"""Frames that wait for a receiver, at most; more are lost, as in any switch."""

_ADDRESSES: Final = 4096
"""Addresses that the switch remembers, at most: a guest may make up any number of them."""

_IFF_TAP_NO_PI: Final = 0x0002 | 0x1000
_TUNSETIFF: Final = 0x400454CA


class _Port(Protocol):
    """Where the switch hands frames to: a client's socket, or a tap."""

    def send(self, frame: bytes) -> None:
        """Hand a frame over; one that cannot be taken at once is lost."""


class _Switch:
    """Learns who is where, and floods what it does not know."""

    def __init__(self) -> None:
        self.ports: list[_Port] = []
        self._known: dict[bytes, _Port] = {}

    def forward(self, frame: bytes, origin: _Port) -> None:
        """Send a frame to the port of its target, or to all others where that is not known."""
        target, source = frame[:6], frame[6:12]
        if not source[0] & 1:  # a single card's address
            if len(self._known) >= _ADDRESSES:
                self._known.clear()
            self._known[source] = origin
        receiver = self._known.get(target)
        if receiver is not None:
            if receiver is not origin:
                receiver.send(frame)
            return
        for port in self.ports:
            if port is not origin:
                port.send(frame)

    def leave(self, port: _Port) -> None:
        """Send nothing to ``port`` any more, and forget which addresses are behind it."""
        self.ports.remove(port)
        self._known = {address: each for address, each in self._known.items() if each is not port}


class _Client:
    """A program that is connected: its two sockets, and the frames that wait for it."""

    def __init__(
        self, connection: socket.socket, own: Path, peer: bytes, selector: selectors.BaseSelector,
        switch: _Switch,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._own = own
        self._selector = selector
        self._switch = switch
        self._waiting: deque[bytes] = deque(maxlen=_WAITING)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.bind(str(own))
        # Now: libvdeplug removes the path as soon as it has the answer.
        self._sock.connect(peer)
        selector.register(self._sock, selectors.EVENT_READ, self._ready)
        selector.register(connection, selectors.EVENT_READ, self._closed)
        switch.ports.append(self)

    def send(self, frame: bytes) -> None:
        """Send a frame, or keep it until the program has read some."""
        if self._waiting:
            self._waiting.append(frame)
            return
        try:
            self._sock.send(frame)
        except BlockingIOError:
            self._waiting.append(frame)
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(self._sock, events, self._ready)
        except OSError:
            return  # it is not there any more

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send_waiting()
        if events & selectors.EVENT_READ:
            with suppress(OSError):
                frame = self._sock.recv(_FRAME)
                if len(frame) >= 14:
                    self._switch.forward(frame, self)

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque(maxlen=_WAITING)
        self._selector.modify(self._sock, selectors.EVENT_READ, self._ready)
        for frame in waiting:
            self.send(frame)

    def _closed(self, events: int) -> None:
        with suppress(OSError):
            if self._connection.recv(_FRAME):
                return
        self._selector.unregister(self._connection)
        self._selector.unregister(self._sock)
        self._connection.close()
        self._sock.close()
        self._own.unlink(missing_ok=True)
        self._switch.leave(self)


class _Tap:
    """A tap interface as a port."""

    def __init__(self, name: str, switch: _Switch) -> None:
        self._switch = switch
        self.file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self.file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
        switch.ports.append(self)

    def send(self, frame: bytes) -> None:
        """Write a frame to the tap; one that it does not take is lost."""
        with suppress(OSError):
            os.write(self.file, frame)

    def ready(self, events: int) -> None:
        """Read the frame that has come from the tap, and forward it."""
        with suppress(OSError):
            self._switch.forward(os.read(self.file, _FRAME), self)


class _Door:
    """Takes connections of new clients, and gives each a port of the switch."""

    def __init__(self, directory: Path, selector: selectors.BaseSelector, switch: _Switch) -> None:
        self._directory = directory
        self._selector = selector
        self._switch = switch
        self._count = 0

    def knock(self, listener: socket.socket) -> None:
        """Take the connection of a client, whose request comes next."""
        connection, _ = listener.accept()
        connection.setblocking(False)
        self._selector.register(
            connection, selectors.EVENT_READ, lambda events: self._asked(connection)
        )

    def _asked(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        peer = _peer(connection)
        if peer is None:
            connection.close()
            return
        self._count += 1
        own = self._directory / f"port{self._count}"
        try:
            _Client(connection, own, peer, self._selector, self._switch)
            connection.send(ADDRESS.pack(socket.AF_UNIX, bytes(own)))
        except OSError:  # there is no such socket
            connection.close()
            own.unlink(missing_ok=True)


def _peer(connection: socket.socket) -> bytes | None:
    """The address that a request names; None when it is none of this protocol."""
    try:
        request = connection.recv(4096)
        magic, version, kind = REQUEST.unpack_from(request)
        _, path = ADDRESS.unpack_from(request, REQUEST.size)
    except (OSError, struct.error):
        return None
    if (magic, version) != (_MAGIC, _VERSION) or kind & 0xFF != _NEW_PORT:
        return None
    return bytes(path.partition(b"\0")[0]) or None


def join(control: Path, own: Path) -> tuple[socket.socket, socket.socket]:
    """Connect to a VDE switch.

    Args:
        control: The switch's ``ctl``.
        own: A new path, for the datagram socket.

    Returns:
        The connection, which is to be held as long as one is on the network, and the datagram
        socket, on which frames are sent and received.
    """
    frames = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    frames.bind(str(own))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(control))
    connection.sendall(
        REQUEST.pack(_MAGIC, _VERSION, _NEW_PORT) + ADDRESS.pack(socket.AF_UNIX, bytes(own))
    )
    _, path = ADDRESS.unpack(connection.recv(ADDRESS.size, socket.MSG_WAITALL))
    frames.connect(path.partition(b"\0")[0])
    return connection, frames


def _main(listener: int, directory: str, tap: str = "") -> None:
    selector = selectors.DefaultSelector()
    switch = _Switch()
    door = _Door(Path(directory), selector, switch)
    sock = socket.socket(fileno=listener)
    selector.register(sock, selectors.EVENT_READ, lambda _: door.knock(sock))
    if tap:
        port = _Tap(tap, switch)
        selector.register(port.file, selectors.EVENT_READ, port.ready)
    while True:
        for key, events in selector.select():
            handle: Callable[[int], None] = key.data
            if selector.get_map().get(key.fd) is key:  # else one before it has closed this one
                handle(events)


if __name__ == "__main__":
    _main(int(sys.argv[1]), *sys.argv[2:])
