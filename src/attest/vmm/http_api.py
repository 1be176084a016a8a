"""A client of a VMM's API: HTTP/1.1 with JSON over a Unix socket.

No request is sent twice: a VMM that closes the connection may have carried it out before.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from attest.errors import reason_of
from attest.support.unix_sockets import connect, readable
from attest.vmm.base import VmmExit

__all__ = ["Api", "ApiError", "explained"]

_LIMIT: Final = 60.0
"""Seconds for a request; a VMM on a busy host gives its processors 30 s to stop."""

_REAPED: Final = 1.0
"""Seconds: the sockets of a VMM that ends close a moment before its process is gone."""

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class ApiError(Exception):
    """A request that failed.

    Attributes:
        method: Of the request.
        path: Of the request.
        status: Of the answer; None when there was none.
        text: What the VMM said, or what happened instead of an answer.
    """

    def __init__(self, method: str, path: str, status: int | None, text: str) -> None:
        said = text if status is None else f"{status}: {text}"
        super().__init__(f"{method} {path}: {said}")
        self.method = method
        self.path = path
        self.status = status
        self.text = text


@contextlib.contextmanager
def explained(vmm: str, wait: Callable[[float], VmmExit | None]) -> Iterator[None]:
    """Say how the VMM ended where a request met with no answer.

    Args:
        vmm: The program's name.
        wait: Waits so many seconds for the VMM's end, and returns it.
    """
    try:
        yield
    except ApiError as error:
        exit = wait(_REAPED) if error.status is None else None
        if exit is None:
            raise
        text = f"{error.text}: {vmm} ended with {exit}"
        raise ApiError(error.method, error.path, None, text) from error


class Api:
    """A VMM's API, one request after the other, on a connection that is kept.

    Methods can be called from several threads at once.

    Args:
        socket_path: Where the VMM listens.
        base: What every path begins with, such as ``/api/v1``.
    """

    def __init__(self, socket_path: Path, *, base: str = "") -> None:
        self._path = socket_path
        self._base = base
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def await_server(self, wait: Callable[[float], VmmExit | None], timeout: float) -> None:
        """Connect as soon as the VMM listens.

        Args:
            wait: Waits so many seconds for the VMM's end, and returns it.
            timeout: Seconds.

        Raises:
            ApiError: It ended, or does not listen in time.
        """
        deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
        with self._lock:
            while True:
                try:
                    self._connection = self._connect(timeout)
                    return
                except (FileNotFoundError, ConnectionRefusedError) as error:
                    reason = f"no API on its socket in {timeout:g} s: {error.strerror}"
                if (exit := wait(pause)) is not None:
                    raise ApiError("CONNECT", str(self._path), None, f"the VMM ended with {exit}")
                if time.monotonic() > deadline:
                    raise ApiError("CONNECT", str(self._path), None, reason)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def get(self, path: str, *, timeout: float = _LIMIT) -> Any:
        """What the VMM says of something; see `call`."""
        return self.call("GET", path, timeout=timeout)

    def put(self, path: str, body: Any = None, *, timeout: float = _LIMIT) -> Any:
        """Make or do something; see `call`."""
        return self.call("PUT", path, body, timeout=timeout)

    def patch(self, path: str, body: Any, *, timeout: float = _LIMIT) -> Any:
        """Change something; see `call`."""
        return self.call("PATCH", path, body, timeout=timeout)

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = _LIMIT) -> Any:
        """Send a request and return its answer.

        Args:
            method: ``GET`` and so on.
            path: Without the base.
            body: Sent as JSON; None: nothing is sent.
            timeout: Seconds until the answer must be there.

        Returns:
            The JSON of the answer, or None where that is empty.

        Raises:
            ApiError: The VMM refused it, did not answer, or has ended.
        """
        path = self._base + path
        with self._lock:
            try:
                status, content = self._exchange(method, path, body, timeout)
            except TimeoutError:
                self._drop()
                raise ApiError(method, path, None, f"no answer in {timeout:g} s") from None
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                text = f"the connection failed: {reason_of(error)}"
                raise ApiError(method, path, None, text) from error
            except BaseException:
                self._drop()  # half of an answer may be left in it
                raise
        if status >= 300:
            raise ApiError(method, path, status, _reason(content))
        return json.loads(content) if content else None

    def close(self) -> None:
        """End the connection; a later call makes a new one."""
        with self._lock:
            self._drop()

    def _exchange(self, method: str, path: str, body: Any, timeout: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + timeout
        if self._connection is not None and self._connection.closed_by_peer():
            self._drop()
        if self._connection is None:
            self._connection = self._connect(timeout)
        connection = self._connection
        content = None if body is None else json.dumps(body)
        headers = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        connection.limit(deadline)
        connection.request(method, path, content, headers)
        connection.limit(deadline)
        response = connection.getresponse()
        answer = response.read()
        if response.will_close:
            self._drop()
        return response.status, answer

    def _connect(self, timeout: float) -> _Connection:
        return _Connection(connect(self._path, timeout))

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Connection(http.client.HTTPConnection):
    """HTTP over a connection that is there."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("localhost")
        self.sock = sock

    def closed_by_peer(self) -> bool:
        """The other end has closed it while nothing was under way."""
        return bool(readable([self.sock.fileno()], 0))

    def limit(self, deadline: float) -> None:
        """Fail what follows with TimeoutError when it goes on beyond ``deadline``."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)


def _reason(content: bytes) -> str:
    """What a VMM says in an answer that refuses.

    Firecracker sends ``{"fault_message": …}``, Cloud Hypervisor a list of causes, and the HTTP
    layer of both sometimes text that only looks like JSON.
    """
    text = content.decode(errors="replace").strip()
    try:
        match json.loads(text):
            case {"fault_message": str(message)} | {"error": str(message)}:
                return message
            case [*causes] if causes:
                return ": ".join(map(str, causes))
    except ValueError:
        pass
    return text or "no reason given"
