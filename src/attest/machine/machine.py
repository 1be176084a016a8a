"""The machine as a test sees it, and what it was at one moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NoReturn, Protocol

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

__all__ = ["Cloner", "Machine", "Snapshot", "clone", "disown"]


class Cloner(Protocol):
    """What can start new machines from a snapshot: the cluster that it was made in."""

    def clone(self, snapshot: Snapshot, names: Sequence[str] | int) -> list[Machine]:
        """Start new machines, with these names, or so many."""


class Snapshot:
    r"""A machine at one moment, to go back to or to start others from.

    `Machine.snapshot` makes one. Nothing has to be closed: its files are among the temporary files
    of its cluster, and go when that is closed. Methods may be called from any thread.

    Example::

        machine.succeed("echo before > /tmp/state")
        prepared = machine.snapshot("prepared")
        machine.succeed("echo after > /tmp/state")
        machine.restore(prepared)
        assert machine.succeed("cat /tmp/state") == "before\n"

        first, second = prepared.clone(2)
        assert first.succeed("cat /tmp/state; hostname") == f"before\n{first.name}\n"

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
        """Wait until its files are complete, and return which they are.

        Raises:
            MachineError: They could not be written.
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
    """Start a new machine from a snapshot for each name, and return without waiting for them.

    They are on the networks of the original, with addresses of their own, and every machine of the
    cluster knows them by name.

    Raises:
        UsageError: A name is taken, or is none; or the cluster has no room for so many.
    """
    return snapshot._cloner.clone(snapshot, names)


class _Elsewhere:
    """Stands for what a machine is made of, in a process that cannot use it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> NoReturn:
        raise UsageError(
            f"{self._name}: this process is a fork of the test's, which alone has its machines"
        )


class Machine(Units, Files, Network, ConsoleAccess, TextConsoles, X11, Display):
    r"""One machine of a cluster, and all that can be done with it.

    A cluster makes its machines: ``cluster["server"]`` is that of the node ``server``; a test
    script has each under its name. `Snapshot.clone` makes more of them. Nothing has to be closed:
    every machine ends with its cluster.

    A machine need not be started: each method that needs it starts it and waits until it is ready.
    `start` begins that early and returns at once, so that several machines come up together.
    Methods may be called from any thread, and from several at once; commands then run side by side.
    What goes wrong in a machine is raised in the thread that called.

    Example::

        server = cluster["server"]
        server.start()
        server.wait_for_unit("multi-user.target")
        assert server.succeed("hostname") == "server\n"

        done = server.run(["cat", "/nonesuch"])
        assert done.status == 1
        assert "No such file" in done.stderr

        try:
            server.succeed("cat /nonesuch")
        except attest.CommandFailed as error:
            assert "No such file" in str(error)

        server.shutdown()
        assert not server.booted

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


def disown(machine: Machine) -> None:
    """Refuse what is asked of a machine, in a fork of the process whose machine it is."""
    machine._lifecycle = machine._host = _Elsewhere(machine.name)  # type: ignore[assignment]
