"""QEMU's machine protocol, synchronous: a thin wrapper around `qemu.qmp`, which is asyncio.

One event loop in one background thread serves every machine of the process.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast

from qemu.qmp import ExecuteError, QMPClient, QMPError

__all__ = ["ExecuteError", "QMPError", "Qmp"]

_T = TypeVar("_T")

_REPLY_LIMIT: Final = 60.0
"""Seconds that a reply may take; QEMU answers in milliseconds, on a busy host in seconds."""


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
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

    def __init__(
        self, name: str, sock: socket.socket, on_event: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._client = _wait(self._open(name, sock, on_event))

    @staticmethod
    async def _open(
        name: str, sock: socket.socket, on_event: Callable[[str, dict[str, Any]], None]
    ) -> QMPClient:
        client = QMPClient(name)
        await client.connect(sock)

        async def listen() -> None:
            with client.listener() as listener:
                async for event in listener:
                    on_event(str(event["event"]), cast("dict[str, Any]", event.get("data", {})))

        client.events_task = asyncio.create_task(listen())  # type: ignore[attr-defined]
        return client

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result.

        Raises:
            ExecuteError: QEMU refused it.
            QMPError: The session has ended.
        """
        names = {key.replace("_", "-"): value for key, value in arguments.items()}
        return _wait(self._client.execute(command, names))

    def close(self) -> None:
        """End the session; nothing happens when it has ended."""
        _wait(self._close())

    async def _close(self) -> None:
        self._client.events_task.cancel()  # type: ignore[attr-defined]
        try:
            await self._client.disconnect()
        except (QMPError, EOFError, OSError):
            return  # QEMU went first
