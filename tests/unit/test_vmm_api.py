"""The client of VMMs' APIs, against sockets that answer as VMMs do when things go wrong."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attest.vmm.base import VmmExit
from attest.vmm.http_api import Api, ApiError

LONG = 60.0


def reply(status: str, body: bytes = b"", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status.encode(), b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


DONE = reply("204 No Content")
NOTHING = b""


class Server:
    """Gives each connection its replies, one for each request, and then closes it."""

    def __init__(self, path: Path, *connections: list[bytes]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.served = threading.Semaphore(0)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, args=(connections,), daemon=True)
        self._thread.start()

    def _accept(self, connections: tuple[list[bytes], ...]) -> None:
        for replies in connections:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            with connection:
                self._serve(connection, replies)
            self.served.release()

    def _serve(self, connection: socket.socket, replies: list[bytes]) -> None:
        for answer in replies:
            if not (request := _request(connection)):
                return
            self.requests.append(request)
            connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # a failed test may not have come so far
        self._thread.join()
        self._listener.close()


def _request(connection: socket.socket) -> bytes:
    """A whole request, or nothing when the client has closed the connection."""
    data = b""
    while not re.fullmatch(rb"(?s)GET .*\r\n\r\n", data):
        match = re.search(rb"(?s)Content-Length: (\d+).*?\r\n\r\n", data)
        if match and len(data) == match.end() + int(match[1]):
            break
        if not (more := connection.recv(65_536)):
            return b""
        data += more
    return data


Serve = Callable[..., tuple[Api, Server]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api"


@pytest.fixture
def serve(path: Path) -> Iterator[Serve]:
    running: list[tuple[Api, Server]] = []

    def make(*connections: list[bytes], base: str = "") -> tuple[Api, Server]:
        running.append((Api(path, base=base), Server(path, *connections)))
        return running[-1]

    yield make
    for api, server in running:
        api.close()
        server.close()


def refusal(api: Api, timeout: float = LONG) -> ApiError:
    with pytest.raises(ApiError) as caught:
        api.put("/vm", {"state": "Paused"}, timeout=timeout)
    return caught.value


def test_requests_share_a_connection(serve: Serve) -> None:
    api, server = serve([reply("200 OK", b'{"version": "1"}'), DONE, NOTHING])
    assert api.get("/version") == {"version": "1"}
    assert api.put("/actions", {"action_type": "InstanceStart"}) is None
    assert server.connections == 1
    head, _, body = server.requests[1].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /actions HTTP/1.1\r\n")
    assert b"Content-Length: 32\r\n" in head
    assert body == b'{"action_type": "InstanceStart"}'


def test_the_base_path(serve: Serve) -> None:
    api, server = serve([DONE], base="/api/v1")
    api.put("/vm.boot")
    assert server.requests[0].startswith(b"PUT /api/v1/vm.boot HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"fault_message": "Kernel file cannot be opened"}', "Kernel file cannot be opened"),
        (b'["VM is not created", "No VM"]', "VM is not created: No VM"),
        # Of the HTTP layer, with a raw newline in it.
        (b'{"error": "Invalid header.\nunknown" }', '{"error": "Invalid header.\nunknown" }'),
        (b"", "no reason given"),
    ],
)
def test_a_refusal(serve: Serve, body: bytes, text: str) -> None:
    api, _ = serve([reply("400 Bad Request", body)])
    error = refusal(api)
    assert (error.method, error.path, error.status, error.text) == ("PUT", "/vm", 400, text)
    assert str(error) == f"PUT /vm: 400: {text}"


def test_after_a_refusal_the_connection_goes_on(serve: Serve) -> None:
    api, server = serve([reply("400 Bad Request", b"no"), DONE, NOTHING])
    refusal(api)
    api.put("/vm", {})
    assert server.connections == 1


def test_an_idle_connection_that_the_vmm_has_closed(serve: Serve) -> None:
    api, server = serve([DONE], [DONE])
    api.put("/vm", {})
    server.served.acquire()
    api.put("/vm", {})
    assert server.connections == 2


def test_a_connection_that_ends_with_the_answer(serve: Serve) -> None:
    api, server = serve(
        [reply("204 No Content", b"", b"Connection: close"), NOTHING], [DONE, NOTHING]
    )
    api.put("/vm", {})
    api.put("/vm", {})
    assert server.connections == 2


def test_what_may_have_been_done_is_not_repeated(serve: Serve) -> None:
    api, server = serve([NOTHING], [DONE])
    error = refusal(api)
    assert error.status is None
    assert error.text.startswith("the connection failed: ")
    assert len(server.requests) == 1
    api.put("/vm", {})  # the next request is another matter
    assert server.connections == 2


def test_no_answer(serve: Serve) -> None:
    api, _ = serve([b"HTTP/1.1 200 OK\r\n", NOTHING])
    assert str(refusal(api, 0.05)) == "PUT /vm: no answer in 0.05 s"


def test_a_late_answer_is_not_taken_for_the_next(serve: Serve) -> None:
    api, server = serve([NOTHING, NOTHING], [reply("200 OK", b'"second"')])
    refusal(api, 0.05)
    assert api.get("/vm") == "second"
    assert server.connections == 2


def test_nobody_listens(path: Path) -> None:
    assert str(refusal(Api(path))).startswith("PUT /vm: the connection failed: ")


def test_the_server_comes_later(path: Path) -> None:
    servers: list[Server] = []

    def wait(_: float) -> None:
        servers.append(Server(path, [DONE]))

    api = Api(path)
    api.await_server(wait, LONG)
    api.put("/vm", {})
    api.close()
    (server,) = servers
    server.close()


def test_the_vmm_ends_before_it_listens(path: Path) -> None:
    with pytest.raises(ApiError, match="the VMM ended with exit code 1: no luck"):
        Api(path).await_server(lambda _: VmmExit(1, False, "no luck"), LONG)


def test_the_server_never_comes(path: Path) -> None:
    with pytest.raises(ApiError, match=r"no API on its socket in 0\.05 s: No such file"):
        Api(path).await_server(lambda _: None, 0.05)
