"""Warm sources: each machine begins as a clone of a machine of its shape that was ready before.

Where the cache has no such snapshot, one machine of the shape boots, off the networks and without
an identity, and is saved when it is ready; all of the shape are then cloned from it. A directory
that the user names is filled in the same way.

A machine with files of the host or warm steps has been others on its way: it had booted, and it had
its files. Its snapshot is made from the last of those that the cache has, as a copy of it that gets
what it lacks. Where it has none, the machine that has booted is saved, too: files and steps change
more often than images.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from attest.errors import CommandFailed, HostError, MachineError, reason_of
from attest.events import Event, EventLog, Kind
from attest.guest.identity import Identity
from attest.machine.contracts import InstanceContext
from attest.machine.instance import Instance, Return
from attest.machine.instance_states import Stage
from attest.machine.meeting import Meeting
from attest.node.launcher import Launcher
from attest.provision.preparation import flush, prepare, rehearse, settle
from attest.provision.sources import BootSource
from attest.snapshot.cache import Entry, NoRoomError, SnapshotCache
from attest.snapshot.record import write_record
from attest.snapshot.shape import Shape
from attest.support.cancellation import Cancelled, cancellable
from attest.vmm.base import Nic, Saved, Vmm

__all__ = ["WarmSources", "make_snapshot"]

_ROOM: Final = 1 << 20
"""Bytes of free disk for the state of a machine's devices: QEMU does not say that they lack."""


class NotSavedError(Exception):
    """The machine was ready, and could not be saved; the text says why."""


class SpoiltError(Exception):
    """The snapshot from which another is to be made does not restore; the text says why."""


class ToldError(Exception):
    """There is no snapshot to make another from, which was told."""


class WarmSources:
    """The machines of a cluster start from snapshots of their shapes.

    Args:
        cache: The snapshots that there are.
        events: Where everything that happens is reported.
    """

    may_boot = True

    def __init__(self, cache: SnapshotCache, events: EventLog) -> None:
        self._cache = cache
        self._events = events
        self._lock = threading.Lock()
        self._found: dict[Shape, Future[Entry | None]] = {}

    def find(self, launcher: Launcher, context: InstanceContext) -> Saved | None:
        """The snapshot of the machine's shape; None where there can be none.

        A machine that has written its disks before boots from them: the memory of a snapshot would
        remember another content.
        """
        if launcher.disks.written:
            return None
        if unfit := launcher.node.binary.unfit(launcher.node.image.kernel_version):
            self._warn(launcher, f"it boots without a snapshot: {unfit}")
            return None
        entry = self._entry(launcher.look_at_shape(), launcher, context)
        return entry.saved if entry else None

    def _entry(self, shape: Shape, launcher: Launcher, context: InstanceContext) -> Entry | None:
        while True:
            with self._lock:
                found = self._found.get(shape)
                if mine := found is None:
                    found = self._found[shape] = Future()
            if mine:
                self._find(shape, found, launcher, context)
            elif not found.done():
                with self._events.span(Kind.WAIT, "wait for the snapshot", machine=launcher.name):
                    _await(found)
            try:
                return found.result()
            except Cancelled:
                if mine:
                    raise
                # The machine that was to make it was ended: this one takes over.

    def report_spoilt(self, launcher: Launcher, reason: str) -> None:
        """Take the snapshot out of the cache, and say so once; the machine boots."""
        launcher.disks.forget()
        shape = launcher.shape()
        with self._lock:
            found = self._found.get(shape)
            if found is None or not found.done():  # another has told already, or makes a new one
                return
            entry = found.result()
            self._found[shape] = _answer(None)
        if entry is not None:  # else another machine has told already
            self._cache.discard(entry)
            self._warn(
                launcher, f"its snapshot does not restore and was removed, so it boots: {reason}"
            )

    def close(self) -> None:
        """Give the snapshots that were used free, so that the cache may remove them."""
        self._cache.close()

    # Inside

    def _find(
        self,
        shape: Shape,
        found: Future[Entry | None],
        launcher: Launcher,
        context: InstanceContext,
    ) -> None:
        try:
            found.set_result(self._obtain(shape, launcher, context))
        except BaseException as error:
            if isinstance(error, Cancelled):
                with self._lock:
                    del self._found[shape]
            found.set_exception(error)

    def _obtain(self, shape: Shape, launcher: Launcher, context: InstanceContext) -> Entry | None:
        def make(into: Path) -> None:
            self._make(shape, launcher, context, into)

        def waiting() -> None:
            text = "another run makes the snapshot: wait for it"
            self._events.emit(Kind.LOG, text, machine=launcher.name)

        def broken(wrong: str) -> None:
            self._warn(launcher, f"its snapshot was damaged and is made anew: {wrong}")

        stop = threading.Event()
        try:
            with cancellable(stop.set):
                return self._cache.obtain(shape, make, stop=stop, waiting=waiting, broken=broken)
        except (NoRoomError, NotSavedError, OSError) as error:
            self._warn(launcher, f"no snapshot could be made, so it boots: {reason_of(error)}")
            return None
        except ToldError:
            return None

    def _make(self, shape: Shape, launcher: Launcher, context: InstanceContext, into: Path) -> None:
        """Make a snapshot in ``into``, from that of the nearest earlier shape."""
        base = self._base(shape, launcher, context)
        if base is not None:
            try:
                _make(shape, launcher, context, into, base)
                return
            except SpoiltError as error:
                self._forget(base)
                text = "the snapshot from which its own is made does not restore and was removed"
                self._warn(launcher, f"{text}, so one boots: {error}")
                for file in into.iterdir():
                    file.unlink()
        _make(shape, launcher, context, into)

    def _base(self, shape: Shape, launcher: Launcher, context: InstanceContext) -> Entry | None:
        """The nearest earlier snapshot; the first of all is made where there is none."""
        first = None
        for first in shape.earlier():
            if entry := self._cache.find(first):
                return entry
        if first is None:
            return None
        entry = self._entry(first, launcher, context)
        if entry is None:
            raise ToldError
        return entry

    def _forget(self, base: Entry) -> None:
        """Take a snapshot out of the cache that does not restore; whoever needs it makes it."""
        with self._lock:
            self._found.pop(base.shape, None)
        self._cache.discard(base)

    def _warn(self, launcher: Launcher, text: str) -> None:
        self._events.emit(Kind.WARNING, text, machine=launcher.name)


def _await(found: Future[Entry | None]) -> None:
    done = threading.Event()
    found.add_done_callback(lambda _: done.set())
    with cancellable(done.set):
        done.wait()


def _answer(entry: Entry | None) -> Future[Entry | None]:
    future: Future[Entry | None] = Future()
    future.set_result(entry)
    return future


def make_snapshot(launcher: Launcher, context: InstanceContext, directory: Path) -> Path:
    """Boot a machine of the node's shape, and keep a snapshot of it where the user says.

    Args:
        launcher: One of the nodes of that shape.
        context: What its machine needs.
        directory: For `attest.snapshot.prebuilt.PrebuiltSnapshots`; an absolute path.

    Returns:
        The snapshot's own directory in there.

    Raises:
        HostError: It could not be saved.
        MachineError: The machine did not come up.
        CommandFailed: A warm step failed.
    """
    if unfit := launcher.node.binary.unfit(launcher.node.image.kernel_version):
        raise HostError(f"{launcher.name}: no snapshot can be made: {unfit}")
    shape = launcher.shape()
    path = directory / shape.key()
    unfinished = path.with_suffix(".unfinished")  # what remains of it when this is killed
    unfinished.mkdir()
    try:
        _make(shape, launcher, context, unfinished)
        write_record(unfinished, shape, moves=True)
        return unfinished.rename(path)
    except BaseException as error:
        shutil.rmtree(unfinished)
        if isinstance(error, NotSavedError | OSError):
            why = reason_of(error)
            raise HostError(f"{launcher.name}: no snapshot could be made: {why}") from error
        raise


def _make(
    shape: Shape,
    launcher: Launcher,
    context: InstanceContext,
    into: Path,
    base: Entry | None = None,
) -> None:
    """Bring a machine to a shape, and save it in ``into``.

    Args:
        shape: What it is to be.
        launcher: A node of this shape, or of one that comes after it.
        context: What the node's machine needs.
        into: An empty directory.
        base: The snapshot of an earlier shape, with which it begins; without, it boots.

    Raises:
        SpoiltError: That snapshot does not restore.
        NotSavedError: It could not be saved.
        MachineError: It did not come up.
        CommandFailed: A warm step failed.
    """
    image = launcher.node.image.name
    told = f"prepare {image}" if base else f"boot {image}"
    with (
        context.events.span(Kind.ACTION, f"{told} once, for a snapshot", machine=launcher.name),
        launcher.spare_nics() as nics,
    ):
        _boot_and_save(shape, launcher, context, nics, into, base)


def _boot_and_save(
    shape: Shape,
    launcher: Launcher,
    context: InstanceContext,
    nics: tuple[Nic, ...],
    into: Path,
    base: Entry | None,
) -> None:
    template = replace(
        context,
        events=_progress(context.events, launcher.name),
        start_vmm=lambda _, saved, *told: launcher.start_template(saved, into, nics, *told),
        identity=_anybody if base else Identity,
        ready_unit=launcher.node.warm_until,
        on_fatal=lambda _: None,
        prepare=None,
    )
    back = Return(base.saved, "the machine is prepared", None, Meeting(1)) if base else None
    instance = Instance(launcher.name, template, BootSource(), allow_reboot=False, back=back)
    try:
        with cancellable(instance.kill):
            instance.begin()
            if base:
                _await_return(instance, into)
            _warm_up(instance, shape, launcher, context.events, base.shape if base else None)
            _save(instance.vmm, into)
    except MachineError as error:
        explained = instance.explain(error)  # waits for the end of a VMM that is about to end
        if _ran_out_of_disk(instance, into):
            raise NotSavedError("the disk is full") from None
        raise explained from None
    finally:
        instance.kill()


def _anybody() -> Identity:
    """Who a machine is that continues, and is nobody: it knows what time it is."""
    return Identity(seed=os.urandom(64), clock_ns=time.time_ns())


def _await_return(instance: Instance, into: Path) -> None:
    try:
        instance.ready()
    except MachineError as error:
        if _ran_out_of_disk(instance, into):
            raise NotSavedError("the disk is full") from None
        raise SpoiltError(reason_of(error)) from error


def _warm_up(
    instance: Instance, shape: Shape, launcher: Launcher, events: EventLog, before: Shape | None
) -> None:
    """Do in a machine what it lacks of a shape.

    Args:
        instance: The machine.
        shape: What it is to be.
        launcher: A node that is so, or will be.
        events: Where it is reported.
        before: What it was when it was saved before; None: it has booted.
    """
    channel = instance.ready()
    copies = bool(shape.files) and not (before and before.files)
    try:
        prepare(launcher, channel, events, files=copies, steps=bool(shape.warm_steps))
    except CommandFailed as error:
        error.evidence |= instance.console_evidence()
        raise
    if copies and launcher.files.contents() != shape.files:
        raise NotSavedError("its files were changed while they were copied")
    if before is None or shape.warm_steps:  # else nothing was begun in it
        settle(channel)
    rehearse(channel, launcher.identity())
    if launcher.node.root_disk:
        flush(channel)


def _save(vmm: Vmm, into: Path) -> None:
    try:
        vmm.save(into)
    except Exception as error:  # of whichever VMM it is
        raise NotSavedError("the disk is full" if _is_full(into) else reason_of(error)) from error


def _is_full(directory: Path) -> bool:
    return shutil.disk_usage(directory).free < _ROOM


def _ran_out_of_disk(instance: Instance, into: Path) -> bool:
    """Whether the disk is full, or was: a page of a memory file that finds no room is a SIGBUS."""
    if _is_full(into):
        return True
    exit = instance.vmm.exit if instance.stage is not Stage.OFF else None
    return exit is not None and exit.status in (-signal.SIGBUS, 128 + signal.SIGBUS)


def _progress(events: EventLog, name: str) -> EventLog:
    """What is told of a machine that is not part of the test: how far it has come."""

    def pass_on(event: Event) -> None:
        if event.kind in (Kind.CONSOLE, Kind.ALARM) or (
            event.kind is Kind.STAGE and event.text != Stage.READY
        ):
            events.emit(event.kind, event.text, machine=name, **event.data)

    quiet = EventLog()
    quiet.subscribe(pass_on)
    return quiet
