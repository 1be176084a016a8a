"""What connects the driver with a process that it starts: pairs of descriptors.

    with Ends() as ends:
        output, stdout = ends.from_process()
        start(stdout=stdout)  # and read `output` from then on

The process's ends are open here only within the ``with`` block, in which it is started. The
driver's are its own from then on, or are closed where that has failed.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from io import FileIO
from types import TracebackType
from typing import Protocol, TypeVar

from attest.vmm.base import ConsolePipes

__all__ = ["Ends"]


class _Closable(Protocol):
    def close(self) -> None: ...


_Ours = TypeVar("_Ours", bound=_Closable)


class Ends:
    """The ends of one process, see above."""

    def __init__(self) -> None:
        self._ours = ExitStack()
        self._theirs = ExitStack()

    def __enter__(self) -> Ends:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._theirs.close()
        if kind is None:
            self._ours.pop_all()
        else:
            self._ours.close()

    def socket(self) -> tuple[socket.socket, int]:
        """A pair of sockets: the driver's, and the process's descriptor."""
        ours, theirs = socket.socketpair()
        return self.ours(ours), self.theirs(theirs.detach())

    def from_process(self) -> tuple[FileIO, int]:
        """A pipe: what the driver reads, and the descriptor to which the process writes."""
        read, write = os.pipe()
        return self.ours(FileIO(read)), self.theirs(write)

    def to_process(self) -> tuple[FileIO, int]:
        """A pipe: where the driver writes, and the descriptor from which the process reads."""
        read, write = os.pipe()
        return self.ours(FileIO(write, "w")), self.theirs(read)

    def console(self) -> tuple[ConsolePipes, int, int]:
        """A console on two pipes, and the descriptors of the process's output and input."""
        output, stdout = self.from_process()
        keyboard, stdin = self.to_process()
        return ConsolePipes(output, keyboard), stdout, stdin

    def ours(self, end: _Ours) -> _Ours:
        """Take something for the driver's end."""
        self._ours.callback(end.close)
        return end

    def theirs(self, descriptor: int) -> int:
        """Take a descriptor for the process's end."""
        self._theirs.callback(os.close, descriptor)
        return descriptor
