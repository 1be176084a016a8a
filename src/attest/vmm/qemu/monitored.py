"""A QEMU that is asked over QMP, whoever wrote its command line."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from attest.vmm.base import OnEvent, OnExit, VmmExit
from attest.vmm.process import VmmProcess

if TYPE_CHECKING:
    from attest.vmm.qemu.qmp import Qmp

__all__ = ["REPLY_LIMIT", "Monitored"]

REPLY_LIMIT: Final = 300.0
"""Seconds that a QEMU's reply may take, and its greeting before that.

It is only for a QEMU that hangs: the end of one is noticed at once. It answers in milliseconds, but
greets when it has allocated its memory, and more than 60 s have been seen on a host that ran many
more machines than it has processors. What becomes of a machine that does not come up, the limit of
its start decides.
"""

_HOLD: Final = 0.02
"""Seconds that a key is held down; the 0.1 of QEMU's own `sendkey` make a line take long."""


class Monitored(VmmProcess):
    """What all QEMUs have in common.

    Args:
        name: The machine's name.
        qmp: The driver's end of its QMP socket.
        on_exit: Called once when the process has ended.
        on_event: Called with each QMP event's name and data.
        keyboard: The machine has a keyboard.
        reply_limit: Seconds that an answer over QMP may take.
    """

    def __init__(
        self,
        name: str,
        qmp: socket.socket,
        on_exit: OnExit,
        on_event: OnEvent,
        *,
        keyboard: bool = True,
        reply_limit: float = REPLY_LIMIT,
    ) -> None:
        self.name = name
        self.keyboard = keyboard
        self._qmp = qmp
        self._on_exit = on_exit
        self._on_event = on_event
        self._reply_limit = reply_limit
        self._qmp_lock = threading.Lock()
        self._session: Qmp | None = None

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its result; underscores stand for hyphens.

        Raises:
            qemu.qmp.QMPError: QEMU refused it, or has ended.
        """
        return self._connect().execute(command, **arguments)

    def monitor(self, command: str) -> str:
        """Run a command of the monitor for people, and return what it prints.

        Raises:
            qemu.qmp.QMPError: QEMU has ended.
        """
        return str(self.execute("human-monitor-command", command_line=command))

    def press(self, keys: str) -> None:
        """Press keys together and release them.

        QEMU's own `sendkey` puts them into a queue and drops what does not fit, among it that a key
        is released; so here each is sent when the one before has been.

        Args:
            keys: QEMU's names, or numbers such as ``0x1c``, joined by hyphens:
                ``ctrl-alt-delete``.

        Raises:
            qemu.qmp.QMPError: There is no such key, or QEMU has ended.
        """
        from attest.vmm.qemu.qmp import QMPError

        pressed = [_key(name) for name in keys.split("-")]
        self._turn(pressed, down=True)
        try:
            time.sleep(_HOLD)
        finally:  # whatever ends the script meanwhile, no key stays down
            with contextlib.suppress(QMPError):  # it may have been the key that ends the machine
                self._turn(pressed[::-1], down=False)

    def _turn(self, keys: Sequence[dict[str, Any]], *, down: bool) -> None:
        data = [{"down": down, "key": key} for key in keys]
        self.execute("input-send-event", events=[{"type": "key", "data": each} for each in data])

    def wait_for_event(
        self, accept: Callable[[dict[str, Any]], bool], timeout: float
    ) -> dict[str, Any]:
        """The next event that ``accept`` takes, of those since the first use of QMP.

        Raises:
            TimeoutError: It did not come in ``timeout`` seconds.
            qemu.qmp.QMPError: QEMU has ended.
        """
        return self._connect().next_event(accept, timeout)

    def forget_events(self) -> None:
        """Forget the events so far."""
        self._connect().forget_events()

    def drain(self) -> None:
        """Return when its network cards have read what had come for them before."""
        for _ in range(2):  # both are served by its main loop, in turns
            self.execute("query-status")

    def pause(self) -> None:
        """Stop its processors; nothing happens when it is paused."""
        self.execute("stop")

    def resume(self) -> None:
        """Let it go on; nothing happens when it runs."""
        self.execute("cont")

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        super().kill()
        self._hang_up()

    def abandon(self) -> None:
        """End it where its start has failed, see `VmmProcess.abandon`."""
        super().abandon()
        self._hang_up()

    def _await_events(self) -> None:
        """Connect at once, as RESET and BLOCK_IO_ERROR must not be missed; QEMU may greet late."""
        self._connect()

    def _connect(self) -> Qmp:
        from attest.vmm.qemu.qmp import Qmp  # asyncio costs 40 ms, which few tests need to spend

        with self._qmp_lock:
            if self._session is None:
                self._session = Qmp(
                    self.name, self._qmp, self._on_event, self._fate, reply_limit=self._reply_limit
                )
            return self._session

    def _fate(self) -> str:
        return f"it ended with {self.exit}" if self.exit else "it still runs"

    def _hang_up(self) -> None:
        with self._qmp_lock:
            if self._session is not None:
                self._session.close()
            self._qmp.close()

    def _ended(self, exit: VmmExit) -> None:
        try:
            self._hang_up()
        finally:
            self._on_exit(exit)


def _key(name: str) -> dict[str, Any]:
    """A key as QMP has it (`KeyValue` in QEMU's qapi/ui.json)."""
    if name.startswith("0x"):
        return {"type": "number", "data": int(name, 16)}
    return {"type": "qcode", "data": name}
