"""TCP connections into a guest over its channel: no network between host and guest is needed."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Self

from attest.errors import AttestError, HostError
from attest.guest.agent.protocol import Status
from attest.guest.agent.stream import Stream, StreamEnded

__all__ = ["Connection", "PortForward"]

_PIECE: Final = 65_536
_AGAIN: Final = 0.1
"""Seconds until a connection is taken that could not be: the host has no descriptors left, say."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Connection:
    """A connection that the agent holds inside the guest; it reads and writes like a socket.

    Args:
        stream: The operation that carries it.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")
        self._eof = False
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``.

        Raises:
            BrokenPipeError: The connection is closed.
            ChannelError: The session has ended.
        """
        try:
            self._stream.write(data)
        except StreamEnded:
            raise BrokenPipeError("the connection in the machine is closed") from None

    def recv(self, size: int = _PIECE) -> bytes:
        """Between 1 and ``size`` bytes, or none at the end.

        Raises:
            OSError: The connection broke inside the guest.
            ChannelError: The session has ended.
        """
        while not self._rest and not self._eof:
            self._receive()
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        self._stream.taken(len(data))
        return data

    def shutdown_write(self) -> None:
        """Say that no more data is sent."""
        self._stream.write_eof()

    def close(self) -> None:
        """End the connection in both directions; whoever reads it gets no more."""
        self._closed = True
        if not self._stream.ended:
            self._stream.abandon()

    def _receive(self) -> None:
        piece = self._stream.take()
        if piece is not None:
            self._rest = memoryview(piece[1])
            self._eof = not piece[1]
            return
        self._eof = True
        if not self._closed and (result := self._stream.result()).status is Status.ERROR:
            raise OSError(result.errno, result.message)


class PortForward:
    """A port on the host's loopback whose connections go into a guest.

    Args:
        port: Port on 127.0.0.1; 0 takes a free one.
        connect: Opens the connection inside the guest.

    Attributes:
        port: The port that it listens on.

    Raises:
        HostError: The port is taken.
    """

    def __init__(self, port: int, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._ends: set[socket.socket | Connection] = set()
        self._carriers: set[threading.Thread] = set()
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            message = f"cannot forward port {port} of 127.0.0.1: {error.strerror}"
            raise HostError(message, hint="port 0 takes a free one") from error
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, name=f"forward {self.port}", daemon=True
        )
        self._acceptor.start()

    def close(self) -> None:
        """Close the port and its connections, and wait until its threads are gone."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() does not
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            ends, carriers = list(self._ends), list(self._carriers)
        for end in ends:
            _end(end)
        for carrier in carriers:
            carrier.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:  # the listener was shut down, or this connection cannot be taken now
                self._closing.wait(_AGAIN)
            else:
                self._begin_to_carry(client)

    def _begin_to_carry(self, client: socket.socket) -> None:
        carrier = threading.Thread(
            target=self._carry, args=(client,), name=f"forward {self.port}", daemon=True
        )
        with self._lock:
            # Those that have ended go now, not when they end: `close` waits for the last.
            self._carriers = {each for each in self._carriers if each.is_alive()}
            self._carriers.add(carrier)
            self._ends.add(client)
        carrier.start()

    def _carry(self, client: socket.socket) -> None:
        try:
            self._carry_both_ways(client)
        finally:
            with self._lock:
                self._ends.discard(client)
            client.close()

    def _carry_both_ways(self, client: socket.socket) -> None:
        try:
            connection = self._connect()
        except AttestError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            return
        with self._lock:
            self._ends.add(connection)
        upward = threading.Thread(
            target=_carry_upward,
            args=(client, connection),
            name=f"forward {self.port}",
            daemon=True,
        )
        upward.start()
        try:
            while data := connection.recv():
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except (OSError, AttestError):
            _end(client)
            _end(connection)  # the other direction may be waiting for the guest to take more
        upward.join()
        with self._lock:
            self._ends.discard(connection)
        _end(connection)


def _carry_upward(client: socket.socket, connection: Connection) -> None:
    try:
        while data := client.recv(_PIECE):
            connection.sendall(data)
        connection.shutdown_write()
    except (OSError, AttestError):
        _end(connection)


def _end(end: socket.socket | Connection) -> None:
    with contextlib.suppress(OSError, AttestError):
        if isinstance(end, Connection):
            end.close()
        else:
            end.shutdown(socket.SHUT_RDWR)
