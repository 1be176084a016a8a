"""A test server that speaks a VMM's API on a Unix socket, and a hybrid-vsock socket behind it.

A backend starts its VMM itself, so what it talks to here is a *stand-in*: a small executable script
that takes the VMM's command line and serves its API with this module (`standin_firecracker.py`).
Test and stand-in share a directory, whose path the stand-in finds in ``$ATTEST_STANDIN``:

    requests.jsonl   every request, one JSON object a line, written by the stand-in
    plan.json        what shall fail, written by the test; read anew for each request

In the stand-in::

    server = ApiServer(Description(file), listener, handle, fault=lambda text: [text])
    server.run()            # for ever; `handle` gives an answer, or None for the described one

In the test::

    bench = Bench(tmp_path)                 # set ATTEST_STANDIN to bench.directory
    bench.fail("PUT", "/vm.boot", status=500, body=["no KVM"])
    ...
    assert bench.requests[0].path == "/api/v1/vmm.ping"
    assert bench.mistakes == []             # nothing was sent that the description forbids

A request that the description forbids is answered with status 400, and its mistakes are written to
the record; so no test passes by it, and `Bench.mistakes` names them.

`HybridVsock` answers ``CONNECT`` as both VMMs do, and joins the connection to the real agent, which
`start_agent` runs on a Unix socket. Only the main thread may start it: it dies with its starter.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import platform
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attest.guest.agent.binary import agent_binary
from tests.contract.openapi import Description

FIRST_HOST_PORT = 1 << 30
CONNECT_LIMIT = 32
"""Bytes of a ``CONNECT`` line, at most."""


@dataclass(frozen=True)
class Request:
    """A request as it came.

    Attributes:
        method: ``GET`` and so on.
        path: With the base path.
        body: The JSON, or None where there was no body.
        mistakes: What the description has against it.
    """

    method: str
    path: str
    body: Any
    mistakes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """An answer: a body that is no text is sent as JSON, and None as no body.

    Attributes:
        status: Of HTTP.
        body: Its content.
        exit_code: The process ends with it, when the answer has been sent.
    """

    status: int
    body: Any = None
    exit_code: int | None = None


Handler = Callable[[Request], Answer | None]


class Bench:
    """What a test sees of its stand-ins, and its way to make them fail."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._plan: list[dict[str, Any]] = []

    def fail(
        self, method: str, path: str, *, status: int = 400, body: Any = None, how: str = "answer"
    ) -> None:
        """Make a request fail from now on.

        Args:
            method: Of the request.
            path: Of the request, with the base path.
            status: Of the answer.
            body: Of the answer; a text is sent as it is.
            how: ``"answer"``; ``"close"`` the connection, ``"hang"``, or ``"exit"`` with ``status``
                as the exit code.
        """
        self._plan.append(
            {"method": method, "path": path, "status": status, "body": body, "how": how}
        )
        fresh = self.directory / "plan.new"
        fresh.write_text(json.dumps(self._plan))
        fresh.rename(self.directory / "plan.json")

    @property
    def requests(self) -> list[Request]:
        """All that came so far, of all stand-ins, in order."""
        record = self.directory / "requests.jsonl"
        lines = record.read_text().splitlines() if record.exists() else []
        return [Request(**json.loads(line)) for line in lines]

    @property
    def mistakes(self) -> list[str]:
        """All that the description has against the requests so far."""
        return [f"{each}: {mistake}" for each in self.requests for mistake in each.mistakes]


class ApiServer:
    """Serves an API as it is described, one request after the other.

    Args:
        description: Of the API.
        listener: A listening Unix socket.
        handle: Gives the answer to a request without mistakes; None: the described one.
        fault: The body of an answer that refuses a request, from its text.
    """

    def __init__(
        self,
        description: Description,
        listener: socket.socket,
        handle: Handler,
        *,
        fault: Callable[[str], Any],
    ) -> None:
        self._description = description
        self._handle = handle
        self._fault = fault
        self._directory = Path(os.environ["ATTEST_STANDIN"])
        self._turn = threading.Lock()
        self._server = _HttpServer(listener, self._answer)

    def run(self) -> None:
        """Serve for ever."""
        self._server.serve_forever()

    def _answer(self, method: str, path: str, body: bytes) -> Answer | None:
        with self._turn:
            mistakes = self._description.check(method, path, body)
            value = json.loads(body) if body and not mistakes else body.decode() or None
            request = Request(method, path, value, mistakes)
            with (self._directory / "requests.jsonl").open("a") as record:
                record.write(json.dumps(asdict(request)) + "\n")
            if mistakes:
                return Answer(400, self._fault(f"not as described: {'; '.join(mistakes)}"))
            if (failure := self._planned(request)) is not None:
                return self._fail(failure)
            return self._handle(request) or self._described(request)

    def _described(self, request: Request) -> Answer:
        operation = self._description.find(request.method, request.path)
        assert not isinstance(operation, str)
        body = operation.answer
        return Answer(operation.status, None if body is None else self._description.sample(body))

    def _planned(self, request: Request) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            for failure in json.loads((self._directory / "plan.json").read_text()):
                if (failure["method"], failure["path"]) == (request.method, request.path):
                    found: dict[str, Any] = failure
                    return found
        return None

    def _fail(self, failure: dict[str, Any]) -> Answer | None:
        if failure["how"] == "exit":
            os._exit(failure["status"])
        if failure["how"] == "hang":
            threading.Event().wait()
        return None if failure["how"] == "close" else Answer(failure["status"], failure["body"])


class _HttpServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(
        self, listener: socket.socket, answer: Callable[[str, str, bytes], Answer | None]
    ) -> None:
        super().__init__("", _HttpHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.answer = answer


class _HttpHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def _serve(self) -> None:
        assert "Transfer-Encoding" not in self.headers, "neither VMM takes chunks"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.answer(self.command, self.path, body)
        if answer is None:
            self.close_connection = True
            return
        text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        content = b"" if answer.body is None else text.encode()
        self.send_response(answer.status)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if answer.exit_code is not None:
            os._exit(answer.exit_code)

    do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        pass


class HybridVsock:
    """A hybrid-vsock socket: from construction it takes connections, from `serve` it reads them.

    Args:
        path: Where it is bound; an existing file is an error, as with the VMMs.
        ports: The Unix socket behind each of the guest's ports on which somebody listens.
    """

    def __init__(self, path: Path, ports: dict[int, Path]) -> None:
        self._ports = ports
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)

    def serve(self) -> None:
        """The guest's driver is up: answer, in threads that end with the process."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            host, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(host,), daemon=True).start()

    def _serve(self, host: socket.socket) -> None:
        with host, contextlib.suppress(OSError):
            word, port, end = _connect_line(host.recv(CONNECT_LIMIT))
            if word.lower() != "connect" or end != "\n" or int(port) not in self._ports:
                return
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(str(self._ports[int(port)]))
                host.sendall(b"OK %d\n" % FIRST_HOST_PORT)
                back = threading.Thread(target=_carry, args=(guest, host), daemon=True)
                back.start()
                _carry(host, guest)
                back.join()


def _connect_line(data: bytes) -> tuple[str, str, str]:
    """Word, port and end of the line; the first read must have all of it, as in Firecracker."""
    word, _, rest = data.decode().partition(" ")
    return word, rest.rstrip("\n"), rest[-1:]


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def start_agent(path: Path) -> None:
    """Run the real agent on a Unix socket; it dies with the calling thread."""
    agent = agent_binary(platform.machine())
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", agent, "--unix", path])
    pause = 0.001
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    raise RuntimeError(f"the agent ended with {process.returncode}")
