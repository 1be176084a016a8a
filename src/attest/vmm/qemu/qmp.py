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
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar, cast

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError, Runstate

from attest.errors import message_of
from attest.support.listeners import tell
from attest.vmm.base import OnEvent

__all__ = ["ExecuteError", "NoReplyError", "QMPError", "Qmp"]

_T = TypeVar("_T")

# What fails is raised, and told once; without this, a QEMU that is ended while it starts would
# print two lines more.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

_KEPT_EVENTS: Final = 1000
"""Events that are kept for whoever asks for them later."""

_CLOSE_LIMIT: Final = 10.0
"""Seconds in which a session is ended in order."""


_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:  # several machines ask for the first one at the same time
        return _running_loop()


@functools.cache
def _running_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qmp", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, _T], limit: float) -> _T:
    """The result of work in the loop, which is cancelled when nobody waits for it any more.

    Raises:
        TimeoutError: There was none in ``limit`` seconds.
    """
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, limit), _loop())
    try:
        return future.result()
    except BaseException:  # a test can be ended while it waits
        future.cancel()
        raise


class NoReplyError(QMPError):
    """QEMU did not answer in time; the text says what, in how many seconds, and whether it runs."""


class Qmp:
    """A QMP session on a connected socket.

    It begins at once and waits for nothing: events come, and commands are answered, as soon as QEMU
    has greeted.

    Args:
        name: For log messages.
        sock: The driver's end of the socket; the session owns it from now on.
        on_event: Called with each event's name and data, in the QMP thread: be quick.
        fate: What is known of QEMU, such as ``"it still runs"``, for errors.
        reply_limit: Seconds that a reply may take, and the greeting before it.
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
        self,
        name: str,
        sock: socket.socket,
        on_event: OnEvent,
        fate: Callable[[], str],
        *,
        reply_limit: float,
    ) -> None:
        self._client = QMPClient(name)
        self._on_event = on_event
        self._fate = fate
        self._reply_limit = reply_limit
        self._waiting: list[Qmp.Events] = []
        self._history: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self._lock = threading.RLock()
        self._came = threading.Condition(self._lock)
        self._ended = False
        self._listener: asyncio.Task[None] | None = None
        self._opening = _wait(self._begin(sock), reply_limit)

    async def _begin(self, sock: socket.socket) -> asyncio.Task[None]:
        opening = asyncio.create_task(self._open(sock))
        # Commands report its failure; where there is none, asyncio would print it.
        opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return opening

    async def _open(self, sock: socket.socket) -> None:
        try:
            await self._client.connect(sock)
        except BaseException as error:
            sock.close()
            self._end()
            if isinstance(error, asyncio.CancelledError):
                raise QMPError("the session was closed before QEMU had greeted") from None
            if isinstance(error, ConnectError):  # whose text may say nothing more
                raise QMPError(f"QEMU has not greeted: {message_of(error.exc)}") from error
            raise
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            # This listener has been there since before the connection: it misses no early event.
            async for event in self._client.events:
                with self._lock:
                    self._history.append(dict(event))
                    self._came.notify_all()
                self._take(str(event["event"]), cast("dict[str, Any]", event.get("data", {})))
        finally:
            self._end()

    def _end(self) -> None:
        """No event comes any more."""
        with self._lock:
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
        with self._lock:
            while True:
                while self._history:
                    event = self._history.popleft()
                    if accept(event):
                        return event
                if self._ended:
                    raise QMPError("QEMU has ended")
                if not self._came.wait(until - time.monotonic()):
                    raise TimeoutError(f"no such event in {timeout:g} s")

    def forget_events(self) -> None:
        """Drop the events so far, for `next_event`."""
        with self._lock:
            self._history.clear()

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
            NoReplyError: QEMU did not answer in time.
            QMPError: The session has ended, or QEMU did not greet.
        """
        names = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self._ask(command, lambda: self._client.execute(command, names))

    def send_descriptor(self, file: int, name: str) -> None:
        """Give QEMU an open file under a name, for ``fd:NAME``."""

        async def send() -> None:
            self._client.send_fd_scm(file)
            await self._client.execute("getfd", {"fdname": name})

        self._ask("getfd", send)

    def _ask(self, command: str, ask: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        async def answer() -> _T:
            await asyncio.shield(self._opening)
            return await ask()

        try:
            return _wait(answer(), self._reply_limit)
        except TimeoutError:
            text = f"QEMU did not answer `{command}` in {self._reply_limit:g} s; {self._fate()}"
            raise NoReplyError(text) from None

    def close(self) -> None:
        """End the session; nothing happens when it has ended."""
        with suppress(TimeoutError):  # of a QEMU that reads nothing more; its socket ends with it
            _wait(self._close(), _CLOSE_LIMIT)

    async def _close(self) -> None:
        if self._client.runstate is not Runstate.DISCONNECTING:  # else it is about to end
            self._opening.cancel()
        await asyncio.wait([self._opening])
        if self._listener is not None:
            self._listener.cancel()
        self._end()
        with suppress(Exception):  # mostly, QEMU went first; and it is the end in any case
            await self._client.disconnect()
