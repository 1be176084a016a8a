"""The process that brings a restored Firecracker's guest its memory: the page-fault handler.

Firecracker maps a saved memory by itself, except for one of huge pages: no file but hugetlbfs's can
be mapped so. For that it hands the faults of the guest's memory to another process (its
docs/snapshotting/handling-page-faults-on-snapshot-resume.md), which is ``attest-uffd``, a small
program of ours in C (``uffd/``).

Where a machine is loaded::

    handler = UffdHandler(
        saved.memory,
        directory / "uffd",  # in Firecracker's working directory
        enter=enter,
        log=spec.directory / "uffd.log",
        on_failure=lambda: firecracker.kill(wait=False),
    )
    backend = {"backend_type": "Uffd", "backend_path": "uffd"}
    api.put("/snapshot/load", {"mem_backend": backend, ...})

and where Firecracker has ended, ``handler.end()`` says whether that was the handler's fault.

The handler ends by itself when its Firecracker has ended. When it fails it ends Firecracker first,
as the guest would wait for its memory for ever.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from attest.errors import HostError
from attest.support.unix_sockets import listen
from attest.vmm.base import VmmExit
from attest.vmm.process import WatchedProcess

__all__ = ["UffdHandler", "uffd_binary"]

_PACKAGED: Final = Path(__file__).parent / "bin"


def uffd_binary() -> Path:
    """The page-fault handler for this host.

    Raises:
        HostError: It is not there.
    """
    path = _PACKAGED / f"attest-uffd-{platform.machine()}"
    if not path.is_file():
        raise HostError(
            f"attest has no page-fault handler for {platform.machine()}",
            hint="in a checkout: make agent",
        )
    return path


class UffdHandler:
    """The page-fault handler of one clone, running from construction.

    Firecracker can be told to load as soon as it is constructed: it listens already.

    Args:
        memory: The saved memory, which must stay as it is while the clone lives.
        socket: Where the socket is made to which Firecracker connects; nothing is there before. It
            goes with the directory that it is in.
        enter: Turns a command line into one that runs in the cluster's cell: in the one in which
            Firecracker runs, since it must see that process.
        log: The file for what it says.
        on_failure: Called once when it has ended before its clone, to end that: the handler may
            not have come to it.

    Raises:
        HostError: It is not packaged for this host.
        OSError: The socket cannot be made.
    """

    def __init__(
        self,
        memory: Path,
        socket: Path,
        *,
        enter: Callable[[Sequence[str]], list[str]],
        log: Path,
        on_failure: Callable[[], None],
    ) -> None:
        self._on_failure = on_failure
        command = [str(uffd_binary().absolute()), str(memory.absolute())]
        # Only the child keeps it: when that fails before Firecracker connects, the load fails too.
        with listen(socket) as listener:
            self._process = WatchedProcess(
                enter(command),
                pass_fds=(),
                stderr=log,
                stdin=listener.fileno(),
                on_exit=self._ended,
            )

    def _ended(self, exit: VmmExit) -> None:
        if not exit.expected:
            self._on_failure()

    def end(self) -> str:
        """End it after its clone, and return why it failed, or nothing; can be called again."""
        self._process.kill()
        exit = self._process.wait()
        # One that was ended here may just have said why, and ended Firecracker for it.
        if exit is None or (exit.expected and not exit.stderr):
            return ""
        return f"the page-fault handler ended with {exit}"
