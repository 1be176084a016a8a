"""CONNECT: connections from where the agent is."""

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent_client import (
    CANCELLED,
    CONNECT,
    DONE,
    FAILED,
    AgentClient,
    Stream,
    agent_socket,
    client,
    u32,
)

__all__ = ["agent_socket", "client"]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(30)
        yield sock


def open_to(client: AgentClient, address: str, port: int = 0) -> Stream:
    """A stream that is connected."""
    stream = client.open(CONNECT, [(1, address.encode()), (2, u32(port))])
    client.handle()
    assert stream.result is None, stream.result
    assert stream.stdout == b""
    return stream


@pytest.mark.parametrize("address", ["::1", "[::1]", "localhost"])
def test_the_address_is_used_that_accepts(client: AgentClient, address: str) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        listener.settimeout(30)
        stream = open_to(client, address, listener.getsockname()[1])
        peer, _ = listener.accept()
        with peer:
            client.data(stream, b"question\n")
            peer.settimeout(30)
            assert peer.recv(100) == b"question\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_both_directions(client: AgentClient, listener: socket.socket, address: str) -> None:
    stream = open_to(client, address, listener.getsockname()[1])
    peer, _ = listener.accept()
    with peer:
        sent = os.urandom(500_000)
        peer.settimeout(30)
        client.data(stream, b"question\n")
        assert peer.recv(100) == b"question\n"
        peer.setblocking(False)
        left = memoryview(sent)
        while left or len(stream.stdout) < len(sent):
            if left:
                try:
                    left = left[peer.send(left) :]
                except BlockingIOError:
                    client.handle()
            else:
                client.handle()
        assert stream.stdout == sent


def test_half_close_by_the_host(client: AgentClient, listener: socket.socket) -> None:
    stream = open_to(client, "127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(30)
        client.data(stream, b"all")
        client.eof(stream)
        assert peer.makefile("rb").read() == b"all"
        peer.sendall(b"answer")
        peer.close()
    assert client.finish(stream).status == DONE
    assert stream.stdout == b"answer"
    assert stream.ended == {0}


def test_half_close_by_the_peer(client: AgentClient, listener: socket.socket) -> None:
    stream = open_to(client, "127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(30)
        peer.sendall(b"bye")
        peer.shutdown(socket.SHUT_WR)
        while 0 not in stream.ended:
            client.handle()
        assert stream.result is None
        client.data(stream, b"still here")
        client.eof(stream)
        assert peer.makefile("rb").read() == b"still here"
    assert client.finish(stream).status == DONE
    assert stream.stdout == b"bye"


def test_a_peer_that_does_not_read(client: AgentClient, listener: socket.socket) -> None:
    stream = open_to(client, "127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(30)
        sent = os.urandom(2_000_000)
        received = bytearray()
        position = 0
        while len(received) < len(sent):
            part = sent[position : position + min(65536, stream.window)]
            client.data(stream, part)
            position += len(part)
            if stream.window == 0 or position == len(sent):
                # The peer may have all of it, and the window be on its way.
                readable, _, _ = select.select([peer, client.socket], [], [], 30)
                received += peer.recv(1 << 20) if peer in readable else b""
            while client.pending(0):
                client.handle()
        assert received == sent


def test_refused(client: AgentClient, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    result, _ = client.run(CONNECT, [(1, b"127.0.0.1"), (2, u32(port))])
    assert (result.status, result.errno) == (FAILED, 111)


def test_an_unknown_name(client: AgentClient) -> None:
    result, _ = client.run(CONNECT, [(1, b"no-such-host.invalid"), (2, u32(80))])
    assert result.status == FAILED
    assert "/etc/hosts" in result.message


def test_a_reset(client: AgentClient, listener: socket.socket) -> None:
    stream = open_to(client, "127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    result = client.finish(stream)
    assert (result.status, result.errno) == (FAILED, 104)


def test_cancel(client: AgentClient, listener: socket.socket) -> None:
    stream = open_to(client, "127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(30)
        client.cancel(stream)
        assert client.finish(stream).status == CANCELLED
        assert peer.recv(1) == b""


def test_a_unix_socket(client: AgentClient, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        stream = open_to(client, str(tmp_path / "socket"))
        peer, _ = listener.accept()
        with peer:
            client.data(stream, b"hello")
            assert peer.recv(100) == b"hello"
        client.eof(stream)
        assert client.finish(stream).status == DONE


def test_a_missing_unix_socket(client: AgentClient, tmp_path: Path) -> None:
    result, _ = client.run(CONNECT, [(1, bytes(tmp_path / "none"))])
    assert (result.status, result.errno) == (FAILED, 2)


def test_ipv6(client: AgentClient) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this host has no ::1")
    with listener:
        stream = open_to(client, "::1", listener.getsockname()[1])
        listener.accept()[0].close()
        client.eof(stream)
        assert client.finish(stream).status == DONE
