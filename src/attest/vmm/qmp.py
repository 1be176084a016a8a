"""QEMU's machine protocol, synchronous: a thin wrapper around `qemu.qmp`, which is asyncio.

One event loop in one background thread serves every machine of the process.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from qemu.qmp import ExecuteError, QMPClient, QMPError

from attest.listeners import tell

__all__ = ["ExecuteError", "QMPError", "Qmp"]

_T = TypeVar("_T")

# What fails is raised, and told once; without this, a QEMU that is ended while it starts would
# print two lines more.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

_KEPT_EVENTS: Final = 1000
"""Events that are kept for whoever asks for them later."""

_REPLY_LIMIT: Final = 60.0
"""Seconds that a reply may take; QEMU answers in milliseconds, on a busy host in seconds."""


_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:  # several machines ask for the first one at the same time
        return _running_loop()


@functools.cache
def _running_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qmp", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, _REPLY_LIMIT), _loop()).result()


class Qmp:
    """A QMP session on a connected socket.

    Args:
        name: For log messages.
        sock: The driver's end of the socket; the session owns it from now on.
        on_event: Called with each event's name and data, in the QMP thread: be quick.

    Raises:
        QMPError: No greeting came, or it was not QMP.
    """

    class Events:
        """Events of one name, in order, from the moment they were asked for."""

        def __init__(self, name: str) -> None:
            self.name = name
            self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

        def put(self, data: dict[str, Any] | None) -> None:
            """Add one; None ends them."""
            self._queue.put(data)

        def next(self, timeout: float) -> dict[str, Any]:
            """The data of the next one.

            Raises:
                TimeoutError: None came in ``timeout`` seconds.
                QMPError: QEMU has ended.
            """
            try:
                data = self._queue.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(f"no {self.name} event") from None
            if data is None:
                raise QMPError("QEMU has ended")
            return data

    def __init__(
        self, name: str, sock: socket.socket, on_event: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._client = QMPClient(name)
        self._on_event = on_event
        self._waiting: list[Qmp.Events] = []
        self._history: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self._came = threading.Condition()
        self._ended = False
        self._listener = _wait(self._open(sock))

    async def _open(self, sock: socket.socket) -> asyncio.Task[None]:
        await self._client.connect(sock)
        return asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            with self._client.listener() as listener:
                async for event in listener:
                    with self._came:
                        self._history.append(dict(event))
                        self._came.notify_all()
                    self._take(str(event["event"]), cast("dict[str, Any]", event.get("data", {})))
        finally:
            with self._came:
                self._ended = True
                self._came.notify_all()
            for events in self._waiting:
                events.put(None)

    def _take(self, name: str, data: dict[str, Any]) -> None:
        for events in self._waiting:
            if events.name == name:
                events.put(data)
        tell(self._on_event, name, data)

    def next_event(
        self, accept: Callable[[dict[str, Any]], bool], timeout: float
    ) -> dict[str, Any]:
        """The next event that ``accept`` takes; those before it are dropped.

        Raises:
            TimeoutError: It did not come in ``timeout`` seconds.
            QMPError: QEMU has ended.
        """
        until = time.monotonic() + timeout
        with self._came:
            while True:
                while self._history:
                    event = self._history.popleft()
                    if accept(event):
                        return event
                if self._ended:
                    raise QMPError("QEMU has ended")
                if not self._came.wait(until - time.monotonic()):
                    raise TimeoutError(f"no such event in {timeout:g} s")

    @contextmanager
    def events(self, name: str) -> Iterator[Events]:
        """Collect the events of a name for as long as the ``with`` block lasts."""
        events = self.Events(name)
        self._waiting.append(events)
        try:
            yield events
        finally:
            self._waiting.remove(events)

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result; underscores in names stand for hyphens.

        Raises:
            ExecuteError: QEMU refused it.
            QMPError: The session has ended.
        """
        names = {key.replace("_", "-"): value for key, value in arguments.items()}
        return _wait(self._client.execute(command, names))

    def send_descriptor(self, file: int, name: str) -> None:
        """Give QEMU an open file under a name, for ``fd:NAME``."""

        async def send() -> None:
            self._client.send_fd_scm(file)
            await self._client.execute("getfd", {"fdname": name})

        _wait(send())

    def close(self) -> None:
        """End the session; nothing happens when it has ended."""
        _wait(self._close())

    async def _close(self) -> None:
        self._listener.cancel()
        try:
            await self._client.disconnect()
        except (QMPError, EOFError, OSError):
            return  # QEMU went first
