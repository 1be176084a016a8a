"""Warm sources: each machine begins as a clone of a machine of its shape that was ready before.

Where the cache has no such snapshot, one machine of the shape boots, off the networks and without
an identity, and is saved when it is ready; all of the shape are then cloned from it. A directory
that the user names is filled in the same way.
"""

from __future__ import annotations

import shutil
import signal
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from attest.errors import HostError, MachineError, reason_of
from attest.events import Event, EventLog, Kind
from attest.guest.channel import Command
from attest.guest.identity import Identity
from attest.machine.completed import command_failed
from attest.machine.contracts import InstanceContext
from attest.machine.instance import Instance
from attest.machine.instance_states import Stage
from attest.node.launcher import Launcher
from attest.provision.sources import BootSource
from attest.snapshot.cache import Entry, NoRoomError, SnapshotCache
from attest.snapshot.record import write_record
from attest.snapshot.shape import Shape
from attest.support.cancellation import Cancelled, cancellable
from attest.vmm.base import Nic, Saved, Vmm

__all__ = ["WarmSources", "make_snapshot"]

_SETTLE: Final = 30.0
"""Seconds that a system may take, once it is ready, to finish the jobs that it has begun."""

_ROOM: Final = 1 << 20
"""Bytes of free disk for the state of a machine's devices: QEMU does not say that they lack."""


class NotSavedError(Exception):
    """The machine was ready, and could not be saved; the text says why."""


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
        entry = self._entry(launcher, context)
        return entry.saved if entry else None

    def _entry(self, launcher: Launcher, context: InstanceContext) -> Entry | None:
        shape = launcher.look_at_shape()
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
            entry = self._found[shape].result()
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
            _make(launcher, context, into)

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
        _make(launcher, context, unfinished)
        write_record(unfinished, shape, moves=True)
        return unfinished.rename(path)
    except BaseException as error:
        shutil.rmtree(unfinished)
        if isinstance(error, NotSavedError | OSError):
            why = reason_of(error)
            raise HostError(f"{launcher.name}: no snapshot could be made: {why}") from error
        raise


def _make(launcher: Launcher, context: InstanceContext, into: Path) -> None:
    """Boot a machine of the shape, and save it in ``into`` when it is ready."""
    told = f"boot {launcher.node.image.name} once, for a snapshot"
    with (
        context.events.span(Kind.ACTION, told, machine=launcher.name),
        launcher.spare_nics() as nics,
    ):
        _boot_and_save(launcher, context, nics, into)


def _boot_and_save(
    launcher: Launcher, context: InstanceContext, nics: tuple[Nic, ...], into: Path
) -> None:
    template = replace(
        context,
        events=_progress(context.events, launcher.name),
        start_vmm=lambda _, __, *told: launcher.boot_template(into, nics, *told),
        identity=Identity,
        ready_unit=launcher.node.warm_until,
        on_fatal=lambda _: None,
    )
    instance = Instance(launcher.name, template, BootSource(), allow_reboot=False)
    try:
        with cancellable(instance.kill):
            instance.begin()
            _warm_up(instance, launcher, context.events)
            _save(instance.vmm, into)
    except MachineError as error:
        explained = instance.explain(error)  # waits for the end of a VMM that is about to end
        if _ran_out_of_disk(instance):
            raise NotSavedError("the disk is full") from None
        raise explained from None
    finally:
        instance.kill()


def _warm_up(instance: Instance, launcher: Launcher, events: EventLog) -> None:
    channel = instance.ready()
    for step in launcher.node.declared.warm_steps:
        with events.span(Kind.COMMAND, step, machine=launcher.name) as span:
            done = channel.run(Command(step, strict=True))
            span.data["status"] = done.status
        if done.status != 0:
            console = instance.console_evidence()
            expected = "to succeed, as a warm step"
            raise command_failed(launcher.name, step, done, expected, console)
    if channel.welcome.init == "systemd":
        # What is still under way would be done again in every clone.
        channel.run(Command(["systemctl", "is-system-running", "--wait"], timeout=_SETTLE))
        # Links such as /dev/disk/by-id.
        channel.run(Command(["udevadm", "settle"], timeout=_SETTLE))


def _save(vmm: Vmm, into: Path) -> None:
    try:
        vmm.save(into)
    except Exception as error:  # of whichever VMM it is
        full = shutil.disk_usage(into).free < _ROOM
        raise NotSavedError("the disk is full" if full else reason_of(error)) from error


def _ran_out_of_disk(instance: Instance) -> bool:
    """A page of a shared memory file that finds no room on the disk is a SIGBUS."""
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
