"""A cluster at one moment."""

from __future__ import annotations

from collections.abc import Set

from attest.machine.machine import Snapshot

__all__ = ["Checkpoint"]


class Checkpoint:
    """A cluster at one moment, to go back to.

    `Cluster.checkpoint` makes one. Nothing has to be closed: its files are among the temporary
    files of its cluster, and go when that is closed. It is data, and may be read from any thread;
    while `Cluster.restore` goes back to it, no other thread should use the machines, as whatever is
    under way in them fails.

    Example::

        cluster.start_all()
        attest.wait_all(["server", "client"], lambda name: cluster[name].succeed("rm -f /tmp/done"))
        fresh = cluster.checkpoint("fresh")
        cluster["server"].succeed("touch /tmp/done")
        cluster["client"].succeed("touch /tmp/done")

        cluster.restore(fresh)
        cluster["server"].fail("test -e /tmp/done")
        cluster["client"].fail("test -e /tmp/done")

    Attributes:
        name: What the script calls it.
        snapshots: Each machine that was running, by name; all others were off.
        machines: The names of all machines that there were.
        never_started: The names of those that had not been started yet, and may be forgotten to
            have been.
    """

    def __init__(
        self,
        name: str,
        snapshots: dict[str, Snapshot],
        machines: Set[str] = frozenset(),
        never_started: Set[str] = frozenset(),
    ) -> None:
        self.name = name
        self.snapshots = snapshots
        self.machines = machines
        self.never_started = never_started

    def __repr__(self) -> str:
        return f"<checkpoint {self.name!r} of {', '.join(self.snapshots)}>"
