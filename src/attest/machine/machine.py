"""The machine as a test sees it, and what it was at one moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from attest.errors import MachineError, UsageError, reason_of
from attest.events import EventLog, Kind
from attest.machine.console import ConsoleAccess
from attest.machine.contracts import MachineHost
from attest.machine.display import Display
from attest.machine.files import Files
from attest.machine.lifecycle import Lifecycle
from attest.machine.meeting import Meeting
from attest.machine.network import Network
from attest.machine.text_console import TextConsoles
from attest.machine.units import Units
from attest.machine.x11 import X11
from attest.node.launcher import Launcher
from attest.vmm.base import Saved

__all__ = ["Cloner", "Machine", "Snapshot", "clone"]


class Cloner(Protocol):
    """What can start new machines from a snapshot: the cluster that it was made in."""

    def clone(self, snapshot: Snapshot, names: Sequence[str] | int) -> list[Machine]:
        """Start new machines, with these names, or so many."""


class Snapshot:
    """A machine at one moment.

    Args:
        name: What the script calls it.
        launcher: The machine that was saved.
        saved: Its files, as soon as they are complete.
        cloner: Starts new machines from it.

    Attributes:
        name: What the script calls it.
        machine: The name of the machine.
    """

    def __init__(self, name: str, launcher: Launcher, saved: Future[Saved], cloner: Cloner) -> None:
        self.name = name
        self.machine = launcher.name
        self.launcher = launcher
        self._saved = saved
        self._cloner = cloner

    def __repr__(self) -> str:
        return f"<snapshot {self.name!r} of {self.machine}>"

    def saved(self) -> Saved:
        """Its files, as soon as they are complete.

        Raises:
            MachineError: It could not be written.
        """
        try:
            return self._saved.result()
        except Exception as error:
            message = f"the snapshot {self.name!r} could not be made: {reason_of(error)}"
            raise MachineError(self.machine, message) from error

    def clone(self, n: int = 1) -> list[Machine]:
        """Start ``n`` new machines from it, called ``MACHINE-1`` and so on; see `clone`.

        Raises:
            UsageError: The cluster has no room for so many.
        """
        return self._cloner.clone(self, n)


def clone(snapshot: Snapshot, names: Sequence[str]) -> list[Machine]:
    """Start a new machine from a snapshot for each name.

    They are on the networks of the original, with addresses of their own, and every machine of the
    cluster knows them by name.

    Raises:
        UsageError: A name is taken, or is none; or the cluster has no room for so many.
    """
    return snapshot._cloner.clone(snapshot, names)


class Machine(Units, Files, Network, ConsoleAccess, TextConsoles, X11, Display):
    """One machine of a cluster.

    Every method that needs the machine starts it and waits until it is ready. Methods can be
    called from several threads at once.

    Args:
        lifecycle: Its instances.
        host: What it has on this host.
        events: Where everything that happens is reported.
        take: Saves it as it is, under a name.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        host: MachineHost,
        events: EventLog,
        take: Callable[[Machine, str], Snapshot],
    ) -> None:
        super().__init__(lifecycle, host, events)
        self._take = take

    def snapshot(self, name: str) -> Snapshot:
        """Save the machine as it is now; it stands still meanwhile, and goes on.

        Args:
            name: What errors and logs call it.

        Raises:
            MachineError: It could not be saved.
        """
        self.connect()
        with self._events.span(Kind.ACTION, f"snapshot {name!r}", machine=self.name):
            return self._take(self, name)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this machine and wait until it is ready.

        Commands and waits under way fail with a `ChannelError` that says so. The machine keeps its
        identity; its clock is right, and its random numbers are others than then.

        Raises:
            UsageError: It is a snapshot of another machine.
            MachineError: It did not come back.
        """
        if snapshot.machine != self.name:
            raise UsageError(
                f"{snapshot!r} cannot be restored as {self.name}",
                hint="snapshot.clone() starts other machines from it",
            )
        with self._events.span(Kind.ACTION, f"restore {snapshot.name!r}", machine=self.name):
            reason = f"the machine was restored to {snapshot.name!r}"
            self._lifecycle.go_back(snapshot.saved(), reason, Meeting(1))
            self.connect()
