"""What machines start from: a boot, or a snapshot that is given. For the warm cache see `warm`."""

from __future__ import annotations

from typing import Protocol

from attest.life import MachineContext
from attest.seat import Seat
from attest.vmm.base import Saved

__all__ = ["ColdStarts", "SnapshotStarts", "Starts"]


class Starts(Protocol):
    """What the machines of a cluster start from."""

    def saved(self, seat: Seat, context: MachineContext) -> Saved | None:
        """The snapshot for a machine that starts, or None when it must boot.

        Raises:
            Cancelled: The machine is not wanted any more.
            MachineError: The machine that was booted for the snapshot did not come up.
            CommandFailed: A warm step failed.
        """

    def spoilt(self, seat: Seat, reason: str) -> bool:
        """What to do when the snapshot did not restore: True to boot, False to give up."""

    def close(self) -> None:
        """No machine starts any more."""


class ColdStarts(Starts):
    """Each machine boots."""

    def saved(self, seat: Seat, context: MachineContext) -> Saved | None:
        """None: there is no snapshot."""
        return None

    def spoilt(self, seat: Seat, reason: str) -> bool:
        """Not asked, as there is no snapshot."""
        return False

    def close(self) -> None:
        """Nothing is held."""


class SnapshotStarts(ColdStarts):
    """A machine starts from a snapshot that the test has made, and cannot boot instead.

    Args:
        given: The snapshot.
    """

    def __init__(self, given: Saved) -> None:
        self._given = given

    def saved(self, seat: Seat, context: MachineContext) -> Saved | None:
        """The snapshot; later, a machine that has disks boots from what it wrote to them."""
        return None if seat.disks.written else self._given
