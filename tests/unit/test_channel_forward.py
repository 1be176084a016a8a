"""TCP connections through a real agent on this host."""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attest.errors import HostError, MachineError
from attest.guest.agent.channel import AgentChannel
from attest.guest.channel import WaitFor, WaitKind

MIB = 1 << 20


def _echo(listener: socket.socket) -> None:
    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionError):  # tests break connections
            while data := client.recv(65_536):
                client.sendall(data)

    threads = []
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            break
        threads.append(threading.Thread(target=serve, args=(client,)))
        threads[-1].start()
    for thread in threads:
        thread.join()


@pytest.fixture
def echo_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_echo, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def refusing_port() -> Iterator[int]:
    with socket.socket() as bound:  # it is taken, and does not listen
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65_536):
        data += piece
    return data


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        answer = receive_all(sock)
        sender.join()
        return answer


def test_a_connection_inside_reads_and_writes_like_a_socket(
    channel: AgentChannel, echo_port: int
) -> None:
    with channel.connect_tcp("127.0.0.1", echo_port) as connection:
        connection.sendall(b"hello world")
        assert connection.recv(5) == b"hello"
        assert connection.recv(100) == b" world"
        connection.shutdown_write()
        assert connection.recv() == b""
        assert connection.recv() == b""


def test_a_unix_socket_inside(channel: AgentChannel, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        channel.start_wait(WaitFor(WaitKind.UNIX_SOCKET, path, timeout=30)).result()
        listener.accept()[0].close()  # the wait's own connection
        with channel.connect_tcp(path, 0) as connection:
            client, _ = listener.accept()
            with client:
                client.sendall(b"hi")
            assert connection.recv() == b"hi"
            assert connection.recv() == b""


def test_a_refused_connection_says_so(channel: AgentChannel, refusing_port: int) -> None:
    with pytest.raises(MachineError, match=r"alice: cannot connect to 127\.0\.0\.1") as caught:
        channel.connect_tcp("127.0.0.1", refusing_port)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_forwarded_port_carries_connections_both_ways(
    channel: AgentChannel, echo_port: int
) -> None:
    forward = channel.forward(0, echo_port)
    data = os.urandom(4 * MIB)
    assert exchange(forward.port, data) == data


def test_many_connections_at_once(channel: AgentChannel, echo_port: int) -> None:
    forward = channel.forward(0, echo_port)
    payloads = [os.urandom(100_000) for _ in range(30)]
    with ThreadPoolExecutor(len(payloads)) as pool:
        assert list(pool.map(lambda data: exchange(forward.port, data), payloads)) == payloads


def test_a_slow_reader_holds_up_only_itself(channel: AgentChannel, echo_port: int) -> None:
    forward = channel.forward(0, echo_port)
    with socket.create_connection(("127.0.0.1", forward.port), timeout=0.2) as slow:
        with pytest.raises(TimeoutError):
            slow.sendall(bytes(256 * MIB))  # more than all buffers on the way take
        assert exchange(forward.port, b"quick") == b"quick"


def test_a_port_that_nobody_serves_resets_the_connection(
    channel: AgentChannel, refusing_port: int
) -> None:
    forward = channel.forward(0, refusing_port)
    # With a timeout, connecting has two steps, and the reset may come between them.
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", forward.port), timeout=30) as sock,
    ):
        sock.recv(1)


def test_a_taken_port_is_an_error_of_the_host(channel: AgentChannel, echo_port: int) -> None:
    with pytest.raises(HostError, match=f"cannot forward port {echo_port}"):
        channel.forward(echo_port, 80)


def test_closing_ends_connections_and_threads(channel: AgentChannel, echo_port: int) -> None:
    forward = channel.forward(0, echo_port)
    with socket.create_connection(("127.0.0.1", forward.port), timeout=30) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        forward.close()
        assert sock.recv(1) == b""
    assert not [t for t in threading.enumerate() if t.name == f"forward {forward.port}"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", forward.port))


def test_closing_the_channel_closes_its_ports(channel: AgentChannel, echo_port: int) -> None:
    forward = channel.forward(0, echo_port)
    with socket.create_connection(("127.0.0.1", forward.port), timeout=30) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        channel.close()
        assert sock.recv(1) == b""
    assert not [t for t in threading.enumerate() if t.name == f"forward {forward.port}"]


def test_a_connection_that_cannot_be_taken_is_not_the_end_of_the_port(
    channel: AgentChannel, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = socket.socket.accept
    refusals = iter([errno.EMFILE, errno.ECONNABORTED])

    def out_of_descriptors(listener: socket.socket) -> tuple[socket.socket, object]:
        if number := next(refusals, 0):
            raise OSError(number, os.strerror(number))
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", out_of_descriptors)
    forward = channel.forward(0, echo_port)
    with socket.create_connection(("127.0.0.1", forward.port), timeout=60) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"hello"
    assert next(refusals, None) is None
