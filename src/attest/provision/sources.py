"""What machines start from: a boot, or snapshots that are given. For the warm cache see `warm`."""

from __future__ import annotations

import os
import threading
from typing import Protocol

import msgspec
from msgspec.structs import replace

from attest.errors import HostError, reason_of
from attest.events import EventLog, Kind
from attest.machine.contracts import InstanceContext, Template
from attest.node.launcher import Launcher
from attest.snapshot.prebuilt import PrebuiltSnapshots, UnfitError
from attest.snapshot.shape import Shape
from attest.support.sparse_copy import copy_sparse
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
        """Whether a machine boots where its snapshot is of no use; otherwise that is an error."""

    def find(self, launcher: Launcher, context: InstanceContext) -> Saved | Template | None:
        """The snapshot that a machine starts from, or how it boots so that there is one.

        None when it boots, and there will be none.

        Raises:
            Cancelled: The machine is not wanted any more.
            MachineError: The machine that was booted for the snapshot did not come up.
            CommandFailed: A warm step failed.
        """

    def report_spoilt(self, launcher: Launcher, reason: str) -> None:
        """Learn why the snapshot that was found for a machine is of no use."""

    def close(self) -> None:
        """Give back what was held for machines to start from; none starts after this."""


class NodeSource(msgspec.Struct, frozen=True):
    """What one machine starts from, see `attest.machine.contracts.Source`.

    Attributes:
        sources: What the machines of its cluster start from.
        launcher: The machine's.
        context: What its instances need.
    """

    sources: Sources
    launcher: Launcher
    context: InstanceContext

    @property
    def may_boot(self) -> bool:
        """Whether the machine boots where its snapshot is of no use."""
        return self.sources.may_boot

    def find(self) -> Saved | Template | None:
        """The snapshot to start from, how to boot so that there is one, or None to boot."""
        if self.launcher.disks.written:
            text = "it boots, as it has written to its disks, of which no snapshot knows"
            self.context.events.emit(Kind.LOG, text, machine=self.launcher.name)
        return self.sources.find(self.launcher, self.context)

    def report_spoilt(self, reason: str) -> None:
        """Learn why the snapshot that was found is of no use."""
        self.sources.report_spoilt(self.launcher, reason)


class BootSource:
    """What a machine starts from that always boots, see `attest.machine.contracts.Source`."""

    may_boot = True

    def find(self) -> Saved | None:
        """Return None, so that the machine boots."""
        return None

    def report_spoilt(self, reason: str) -> None:
        """Do nothing: no snapshot was given out."""


class ColdSources:
    """Lets each machine boot, and looks for no snapshot."""

    may_boot = True

    def find(self, launcher: Launcher, context: InstanceContext) -> Saved | None:
        """Return None, so that the machine boots."""
        if not launcher.disks.written:
            launcher.look_at_shape()
        return None

    def report_spoilt(self, launcher: Launcher, reason: str) -> None:
        """Do nothing: no snapshot was given out."""

    def close(self) -> None:
        """Do nothing: nothing is held while machines run."""


class SnapshotSources(ColdSources):
    """A machine starts from a snapshot that the test has made, and cannot boot instead.

    Args:
        given: The snapshot.
    """

    may_boot = False

    def __init__(self, given: Saved) -> None:
        self._given = given

    def find(self, launcher: Launcher, context: InstanceContext) -> Saved | None:
        """The snapshot; later, a machine that has disks boots from what it wrote to them."""
        return None if launcher.disks.written else self._given


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

    def find(self, launcher: Launcher, context: InstanceContext) -> Saved | None:
        """The snapshot of the machine's shape; None where there is none that fits.

        As with the cache, a machine that has written its disks before boots from them.
        """
        if launcher.disks.written:
            return None
        shape = launcher.look_at_shape()
        with self._lock:
            if shape not in self._found:
                self._found[shape] = self._find(shape, launcher)
            return self._found[shape]

    def report_spoilt(self, launcher: Launcher, reason: str) -> None:
        """Say once that the snapshot does not restore; the machine boots."""
        launcher.disks.forget()
        shape = launcher.shape()
        with self._lock:
            if self._found[shape] is not None:
                self._found[shape] = None
                where = self._snapshots.directory
                self._warn(
                    launcher, f"the snapshot in {where} does not restore, so it boots: {reason}"
                )

    def close(self) -> None:
        """Do nothing: nothing is held while machines run."""

    def _find(self, shape: Shape, launcher: Launcher) -> Saved | None:
        try:
            if unfit := launcher.unfit:
                raise UnfitError(unfit)
            entry = self._snapshots.find(shape)
            saved = self._mappable(entry.saved, launcher)
        except (UnfitError, HostError) as error:
            self._warn(launcher, f"it boots: {reason_of(error)}")
            return None
        made = local_time(entry.made)
        text = f"it starts from the snapshot in {self._snapshots.directory}, made {made}"
        self._events.emit(Kind.LOG, text, machine=launcher.name)
        return saved

    def _mappable(self, saved: Saved, launcher: Launcher) -> Saved:
        """With a memory that the VMM can open: some open what they map privately for writing."""
        if (
            saved.memory is None
            or launcher.node.binary.opens_read_only
            or os.access(saved.memory, os.W_OK)
        ):
            return saved
        memory = launcher.new_directory("memory") / "memory"
        copy_sparse(memory, saved.memory)
        return replace(saved, memory=memory)

    def _warn(self, launcher: Launcher, text: str) -> None:
        self._events.emit(Kind.WARNING, text, machine=launcher.name)
