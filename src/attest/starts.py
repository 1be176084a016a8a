"""What machines start from: a boot, or snapshots that are given. For the warm cache see `warm`."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import Protocol

from attest.errors import HostError, reason_of
from attest.events import EventLog, Kind
from attest.life import MachineContext
from attest.seat import Seat
from attest.snapshot.given import GivenSnapshots, UnfitError
from attest.snapshot.shape import Shape
from attest.vmm import disk
from attest.vmm.base import Saved

__all__ = ["ColdStarts", "GivenStarts", "SnapshotStarts", "Starts"]


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
        if not seat.disks.written:
            seat.look_at_shape()
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


class GivenStarts(Starts):
    """Machines start from snapshots in a directory that the user names; others boot.

    None is made: in a build, which leaves no cache behind, that would cost more than the boot.

    Args:
        snapshots: What there is.
        events: Where everything that happens is reported.
    """

    def __init__(self, snapshots: GivenSnapshots, events: EventLog) -> None:
        self._snapshots = snapshots
        self._events = events
        self._lock = threading.Lock()
        self._found: dict[Shape, Saved | None] = {}

    def saved(self, seat: Seat, context: MachineContext) -> Saved | None:
        """The snapshot of the machine's shape; None where there is none that fits.

        As with the cache, a machine that has written its disks before boots from them.
        """
        if seat.disks.written:
            return None
        shape = seat.look_at_shape()
        with self._lock:
            if shape not in self._found:
                self._found[shape] = self._find(shape, seat)
            return self._found[shape]

    def spoilt(self, seat: Seat, reason: str) -> bool:
        """Say once that the snapshot does not restore; the machine boots."""
        seat.disks.forget()
        shape = seat.shape()
        with self._lock:
            if self._found[shape] is not None:
                self._found[shape] = None
                where = self._snapshots.directory
                self._warn(seat, f"the snapshot in {where} does not restore, so it boots: {reason}")
        return True

    def close(self) -> None:
        """Nothing is held."""

    def _find(self, shape: Shape, seat: Seat) -> Saved | None:
        try:
            if unfit := seat.binary.unfit(seat.image.kernel_version):
                raise UnfitError(unfit)
            entry = self._snapshots.find(shape)
            saved = self._mappable(entry.saved, seat)
        except (UnfitError, HostError) as error:
            self._warn(seat, f"it boots: {reason_of(error)}")
            return None
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.made))
        text = f"it starts from the snapshot in {self._snapshots.directory}, made {made}"
        self._events.emit(Kind.LOG, text, machine=seat.name)
        return saved

    def _mappable(self, saved: Saved, seat: Seat) -> Saved:
        """With a memory that the VMM can open: some open what they map privately for writing."""
        if saved.memory is None or seat.binary.opens_read_only or os.access(saved.memory, os.W_OK):
            return saved
        memory = seat.new_directory("memory") / "memory"
        disk.copy(memory, saved.memory)
        return replace(saved, memory=memory)

    def _warn(self, seat: Seat, text: str) -> None:
        self._events.emit(Kind.WARNING, text, machine=seat.name)
