"""What `attest run --watch` tells each of its runs, and what a run tells it.

Each run is a process of its own, with the command line of the one that watches, and one end of a
socket. Its messages are JSON. When the other end closes, whatever the reason, the run ends.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec

__all__ = ["LARGEST", "PATIENCE", "VARIABLE", "Go", "Orders", "Report", "Start", "Told"]

VARIABLE: Final = "ATTEST_WATCHED"
"""The environment variable that has a `Start`."""

PATIENCE: Final = 10.0
"""Seconds in which a run must have ended that is to end: its script may catch everything."""

LARGEST: Final = 1 << 20
"""Bytes of a message at most."""


class Start(msgspec.Struct, frozen=True):
    """What a run is started with.

    Attributes:
        socket: The descriptor of its end of the socket.
        ahead: The machines that are to come up ahead of the script, which then waits for a `Go`;
            each with whether its guest may reboot by itself. None: it begins at once.
        saved: When the file was saved for which it begins at once, in seconds since the epoch.
    """

    socket: int
    ahead: dict[str, bool] | None = None
    saved: float | None = None


class Go(msgspec.Struct, frozen=True):
    """The script is to run.

    Attributes:
        saved: When the file was saved for which it does, in seconds since the epoch.
    """

    saved: float


class Report(msgspec.Struct, frozen=True):
    """What was learnt of a run that is over.

    Attributes:
        passed: Whether the test has passed.
        started: The machines that were started, each with whether its guest may reboot by itself.
        modules: The files of the user's modules that the script has imported.
    """

    passed: bool
    started: dict[str, bool]
    modules: list[str]


class Told(msgspec.Struct, frozen=True):
    """What a run tells.

    Attributes:
        report: It is over, and this was learnt; None: it is not.
        again: It waits for a `Go` again, as its script could not be run.
    """

    report: Report | None = None
    again: bool = False


class Orders:
    """A run's end of the socket.

    Args:
        start: What it was started with.

    Attributes:
        ahead: The machines that are to come up ahead; None: the run begins at once.
        saved: When the file was saved for which the script runs; None for the first run.
        ended: The run is to end, or has been told to.
    """

    def __init__(self, start: Start) -> None:
        self.ahead: Mapping[str, bool] | None = start.ahead
        self.saved = start.saved
        self.ended = False
        self._is_over = False
        self._socket = socket.socket(fileno=start.socket)
        self._socket.set_inheritable(False)
        self._go: SimpleQueue[Go] = SimpleQueue()
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def wait(self) -> None:
        """Wait until the script is to run."""
        self.saved = self._go.get().saved

    def stand_by(self, *, again: bool = False) -> None:
        """Say that the machines stand by.

        Args:
            again: The script could not be run, and the next `Go` is waited for.
        """
        self._tell(Told(again=again))

    def report(self, *, passed: bool, started: dict[str, bool], modules: Iterable[Path]) -> None:
        """Say that the run is over; nobody ends it any more."""
        self._is_over = True
        self._tell(Told(Report(passed, started, [str(each) for each in modules])))

    def _tell(self, told: Told) -> None:
        try:
            self._socket.send(msgspec.json.encode(told))
        except OSError:  # nobody is there, and this run is about to end
            return

    def _listen(self) -> None:
        while data := self._received():
            self._go.put(msgspec.json.decode(data, type=Go))
        if self._is_over:
            return
        self.ended = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    def _received(self) -> bytes:
        try:
            return self._socket.recv(LARGEST)
        except OSError:
            return b""
