"""What machines start from: a boot, or snapshots that are given. For the warm cache see `warm`."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from attest.disk import qemu_img as disk
from attest.errors import HostError, reason_of
from attest.events import EventLog, Kind
from attest.machine.contracts import InstanceContext
from attest.node.resolved import ResolvedNode
from attest.snapshot.prebuilt import PrebuiltSnapshots, UnfitError
from attest.snapshot.shape import Shape
from attest.support.text import local_time
from attest.vmm.base import Saved

__all__ = [
    "BootSource",
    "ColdSources",
    "PrebuiltSources",
    "SnapshotSources",
    "NodeSource",
    "Sources",
]


class Sources(Protocol):
    """What the machines of a cluster start from."""

    @property
    def may_boot(self) -> bool:
        """Where a snapshot is of no use, its machine boots."""

    def find(self, resolved: ResolvedNode, context: InstanceContext) -> Saved | None:
        """The snapshot for a machine that sources, or None when it must boot.

        Raises:
            Cancelled: The machine is not wanted any more.
            MachineError: The machine that was booted for the snapshot did not come up.
            CommandFailed: A warm step failed.
        """

    def report_spoilt(self, resolved: ResolvedNode, reason: str) -> None:
        """Learn why the snapshot that was found for a machine is of no use."""

    def close(self) -> None:
        """No machine starts any more."""


@dataclass(frozen=True)
class NodeSource:
    """What one machine starts from, see `attest.machine.contracts.Source`.

    Attributes:
        sources: What the machines of its cluster start from.
        resolved: The machine's.
        context: What its instances need.
    """

    sources: Sources
    resolved: ResolvedNode
    context: InstanceContext

    @property
    def may_boot(self) -> bool:
        """Where the snapshot is of no use, the machine boots."""
        return self.sources.may_boot

    def find(self) -> Saved | None:
        """The snapshot to start from, or None to boot."""
        return self.sources.find(self.resolved, self.context)

    def report_spoilt(self, reason: str) -> None:
        """Learn why the snapshot that was found is of no use."""
        self.sources.report_spoilt(self.resolved, reason)


class BootSource:
    """What a machine starts from that always boots, see `attest.machine.contracts.Source`."""

    may_boot = True

    def find(self) -> Saved | None:
        """None: there is no snapshot."""
        return None

    def report_spoilt(self, reason: str) -> None:
        """Not called, as there is no snapshot."""


class ColdSources:
    """Each machine boots."""

    may_boot = True

    def find(self, resolved: ResolvedNode, context: InstanceContext) -> Saved | None:
        """None: there is no snapshot."""
        if not resolved.disks.written:
            resolved.look_at_shape()
        return None

    def report_spoilt(self, resolved: ResolvedNode, reason: str) -> None:
        """Not called, as there is no snapshot."""

    def close(self) -> None:
        """Nothing is held."""


class SnapshotSources(ColdSources):
    """A machine starts from a snapshot that the test has made, and cannot boot instead.

    Args:
        given: The snapshot.
    """

    may_boot = False

    def __init__(self, given: Saved) -> None:
        self._given = given

    def find(self, resolved: ResolvedNode, context: InstanceContext) -> Saved | None:
        """The snapshot; later, a machine that has disks boots from what it wrote to them."""
        return None if resolved.disks.written else self._given


class PrebuiltSources:
    """Machines start from snapshots in a directory that the user names; others boot.

    None is made: in a build, which leaves no cache behind, that would cost more than the boot.

    Args:
        snapshots: What there is.
        events: Where everything that happens is reported.
    """

    may_boot = True

    def __init__(self, snapshots: PrebuiltSnapshots, events: EventLog) -> None:
        self._snapshots = snapshots
        self._events = events
        self._lock = threading.Lock()
        self._found: dict[Shape, Saved | None] = {}

    def find(self, resolved: ResolvedNode, context: InstanceContext) -> Saved | None:
        """The snapshot of the machine's shape; None where there is none that fits.

        As with the cache, a machine that has written its disks before boots from them.
        """
        if resolved.disks.written:
            return None
        shape = resolved.look_at_shape()
        with self._lock:
            if shape not in self._found:
                self._found[shape] = self._find(shape, resolved)
            return self._found[shape]

    def report_spoilt(self, resolved: ResolvedNode, reason: str) -> None:
        """Say once that the snapshot does not restore; the machine boots."""
        resolved.disks.forget()
        shape = resolved.shape()
        with self._lock:
            if self._found[shape] is not None:
                self._found[shape] = None
                where = self._snapshots.directory
                self._warn(
                    resolved, f"the snapshot in {where} does not restore, so it boots: {reason}"
                )

    def close(self) -> None:
        """Nothing is held."""

    def _find(self, shape: Shape, resolved: ResolvedNode) -> Saved | None:
        try:
            if unfit := resolved.binary.unfit(resolved.image.kernel_version):
                raise UnfitError(unfit)
            entry = self._snapshots.find(shape)
            saved = self._mappable(entry.saved, resolved)
        except (UnfitError, HostError) as error:
            self._warn(resolved, f"it boots: {reason_of(error)}")
            return None
        made = local_time(entry.made)
        text = f"it starts from the snapshot in {self._snapshots.directory}, made {made}"
        self._events.emit(Kind.LOG, text, machine=resolved.name)
        return saved

    def _mappable(self, saved: Saved, resolved: ResolvedNode) -> Saved:
        """With a memory that the VMM can open: some open what they map privately for writing."""
        if (
            saved.memory is None
            or resolved.binary.opens_read_only
            or os.access(saved.memory, os.W_OK)
        ):
            return saved
        memory = resolved.new_directory("memory") / "memory"
        disk.copy(memory, saved.memory)
        return replace(saved, memory=memory)

    def _warn(self, resolved: ResolvedNode, text: str) -> None:
        self._events.emit(Kind.WARNING, text, machine=resolved.name)
