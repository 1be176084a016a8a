"""Waiting for the end of a process that a VMM runs in."""

from __future__ import annotations

import threading

from attest.vmm.base import VmmExit

__all__ = ["End"]


class End:
    """Is told of a process's end."""

    def __init__(self) -> None:
        self.told: list[VmmExit] = []
        self._came = threading.Event()

    def __call__(self, exit: VmmExit) -> None:
        self.told.append(exit)
        self._came.set()

    def wait(self) -> VmmExit:
        assert self._came.wait(30), "nobody was told of the end"
        return self.told[0]
