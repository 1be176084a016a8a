"""What machines start from: a boot, or snapshots that are given. For the warm cache see `warm`."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from typing import Protocol

from attest.disk import qemu_img as disk
from attest.errors import HostError, reason_of
from attest.events import EventLog, Kind
from attest.machine.contracts import InstanceContext
from attest.node.resolved import Seat
from attest.snapshot.prebuilt import GivenSnapshots, UnfitError
from attest.snapshot.shape import Shape
from attest.vmm.base import Saved

__all__ = ["BootSource", "ColdStarts", "GivenStarts", "SnapshotStarts", "SourceOf", "Starts"]


class Starts(Protocol):
    """What the machines of a cluster start from."""

    @property
    def may_boot(self) -> bool:
        """Where a snapshot is of no use, its machine boots."""

    def find(self, seat: Seat, context: InstanceContext) -> Saved | None:
        """The snapshot for a machine that starts, or None when it must boot.

        Raises:
            Cancelled: The machine is not wanted any more.
            MachineError: The machine that was booted for the snapshot did not come up.
            CommandFailed: A warm step failed.
        """

    def report_spoilt(self, seat: Seat, reason: str) -> None:
        """Learn why the snapshot that was found for a machine is of no use."""

    def close(self) -> None:
        """No machine starts any more."""


@dataclass(frozen=True)
class SourceOf:
    """What one machine starts from, see `attest.machine.contracts.Source`.

    Attributes:
        starts: What the machines of its cluster start from.
        seat: The machine's.
        context: What its instances need.
    """

    starts: Starts
    seat: Seat
    context: InstanceContext

    @property
    def may_boot(self) -> bool:
        """Where the snapshot is of no use, the machine boots."""
        return self.starts.may_boot

    def find(self) -> Saved | None:
        """The snapshot to start from, or None to boot."""
        return self.starts.find(self.seat, self.context)

    def report_spoilt(self, reason: str) -> None:
        """Learn why the snapshot that was found is of no use."""
        self.starts.report_spoilt(self.seat, reason)


class BootSource:
    """What a machine starts from that always boots, see `attest.machine.contracts.Source`."""

    may_boot = True

    def find(self) -> Saved | None:
        """None: there is no snapshot."""
        return None

    def report_spoilt(self, reason: str) -> None:
        """Not called, as there is no snapshot."""


class ColdStarts:
    """Each machine boots."""

    may_boot = True

    def find(self, seat: Seat, context: InstanceContext) -> Saved | None:
        """None: there is no snapshot."""
        if not seat.disks.written:
            seat.look_at_shape()
        return None

    def report_spoilt(self, seat: Seat, reason: str) -> None:
        """Not called, as there is no snapshot."""

    def close(self) -> None:
        """Nothing is held."""


class SnapshotStarts(ColdStarts):
    """A machine starts from a snapshot that the test has made, and cannot boot instead.

    Args:
        given: The snapshot.
    """

    may_boot = False

    def __init__(self, given: Saved) -> None:
        self._given = given

    def find(self, seat: Seat, context: InstanceContext) -> Saved | None:
        """The snapshot; later, a machine that has disks boots from what it wrote to them."""
        return None if seat.disks.written else self._given


class GivenStarts:
    """Machines start from snapshots in a directory that the user names; others boot.

    None is made: in a build, which leaves no cache behind, that would cost more than the boot.

    Args:
        snapshots: What there is.
        events: Where everything that happens is reported.
    """

    may_boot = True

    def __init__(self, snapshots: GivenSnapshots, events: EventLog) -> None:
        self._snapshots = snapshots
        self._events = events
        self._lock = threading.Lock()
        self._found: dict[Shape, Saved | None] = {}

    def find(self, seat: Seat, context: InstanceContext) -> Saved | None:
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

    def report_spoilt(self, seat: Seat, reason: str) -> None:
        """Say once that the snapshot does not restore; the machine boots."""
        seat.disks.forget()
        shape = seat.shape()
        with self._lock:
            if self._found[shape] is not None:
                self._found[shape] = None
                where = self._snapshots.directory
                self._warn(seat, f"the snapshot in {where} does not restore, so it boots: {reason}")

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
