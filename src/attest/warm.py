"""Warm starts: each machine begins as a clone of a machine of its shape that was ready before.

Where the cache has no such snapshot, one machine of the shape boots, off the networks and without
an identity, and is saved when it is ready; all of the shape are then cloned from it. A directory
that the user names is filled in the same way.
"""

from __future__ import annotations

import shutil
import signal
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Final

from attest.errors import CommandFailed, HostError, MachineError
from attest.events import Event, EventLog, Kind
from attest.guest.channel import Channel
from attest.guest.identity import Identity
from attest.life import Life, MachineContext, Stage
from attest.scope import Cancelled, cancellable
from attest.seat import Seat
from attest.snapshot.cache import Entry, NoRoomError, SnapshotCache
from attest.snapshot.record import write_record
from attest.snapshot.shape import Shape
from attest.starts import Starts
from attest.vmm.base import Nic, Saved, Vmm

__all__ = ["WarmStarts", "make_snapshot"]

_SETTLE: Final = 30.0
"""Seconds that a system may take, once it is ready, to finish the jobs that it has begun."""

_ROOM: Final = 1 << 20
"""Bytes of free disk for the state of a machine's devices: QEMU does not say that they lack."""


class NotSavedError(Exception):
    """The machine was ready, and could not be saved; the text says why."""


class WarmStarts(Starts):
    """The machines of a cluster start from snapshots of their shapes.

    Args:
        cache: The snapshots that there are.
        events: Where everything that happens is reported.
    """

    def __init__(self, cache: SnapshotCache, events: EventLog) -> None:
        self._cache = cache
        self._events = events
        self._lock = threading.Lock()
        self._found: dict[Shape, Future[Entry | None]] = {}

    def saved(self, seat: Seat, context: MachineContext) -> Saved | None:
        """The snapshot of the machine's shape; None where there can be none.

        A machine that has written its disks before boots from them: the memory of a snapshot would
        remember another content.
        """
        if seat.disks.written:
            return None
        if unfit := seat.binary.unfit(seat.image.kernel_version):
            self._warn(seat, f"it boots without a snapshot: {unfit}")
            return None
        entry = self._entry(seat, context)
        return entry.saved if entry else None

    def _entry(self, seat: Seat, context: MachineContext) -> Entry | None:
        shape = seat.shape()
        while True:
            with self._lock:
                found = self._found.get(shape)
                if mine := found is None:
                    found = self._found[shape] = Future()
            if mine:
                self._find(shape, found, seat, context)
            elif not found.done():
                with self._events.span(Kind.WAIT, "wait for the snapshot", machine=seat.name):
                    _await(found)
            try:
                return found.result()
            except Cancelled:
                if mine:
                    raise
                # The machine that was to make it was ended: this one takes over.

    def spoilt(self, seat: Seat, reason: str) -> bool:
        """Take the snapshot out of the cache, and say so once; the machine boots."""
        seat.disks.forget()
        shape = seat.shape()
        with self._lock:
            entry = self._found[shape].result()
            self._found[shape] = _answer(None)
        if entry is not None:  # else another machine has told already
            self._cache.discard(entry)
            self._warn(
                seat, f"its snapshot does not restore and was removed, so it boots: {reason}"
            )
        return True

    def close(self) -> None:
        """Let others remove what was used."""
        self._cache.close()

    # Inside

    def _find(
        self, shape: Shape, found: Future[Entry | None], seat: Seat, context: MachineContext
    ) -> None:
        try:
            found.set_result(self._obtain(shape, seat, context))
        except BaseException as error:
            if isinstance(error, Cancelled):
                with self._lock:
                    del self._found[shape]
            found.set_exception(error)

    def _obtain(self, shape: Shape, seat: Seat, context: MachineContext) -> Entry | None:
        def make(into: Path) -> None:
            _make(seat, context, into)

        def waiting() -> None:
            text = "another run makes the snapshot: wait for it"
            self._events.emit(Kind.LOG, text, machine=seat.name)

        def broken(wrong: str) -> None:
            self._warn(seat, f"its snapshot was damaged and is made anew: {wrong}")

        stop = threading.Event()
        try:
            with cancellable(stop.set):
                return self._cache.obtain(shape, make, stop=stop, waiting=waiting, broken=broken)
        except (NoRoomError, NotSavedError, OSError) as error:
            self._warn(seat, f"no snapshot could be made, so it boots: {error}")
            return None

    def _warn(self, seat: Seat, text: str) -> None:
        self._events.emit(Kind.WARNING, text, machine=seat.name)


def _await(found: Future[Entry | None]) -> None:
    done = threading.Event()
    found.add_done_callback(lambda _: done.set())
    with cancellable(done.set):
        done.wait()


def _answer(entry: Entry | None) -> Future[Entry | None]:
    future: Future[Entry | None] = Future()
    future.set_result(entry)
    return future


def make_snapshot(seat: Seat, context: MachineContext, directory: Path) -> Path:
    """Boot a machine of the seat's shape, and keep a snapshot of it where the user says.

    Args:
        seat: One of the nodes of that shape.
        context: What its machine needs.
        directory: For `attest.snapshot.given.GivenSnapshots`; an absolute path.

    Returns:
        The snapshot's own directory in there.

    Raises:
        HostError: It could not be saved.
        MachineError: The machine did not come up.
        CommandFailed: A warm step failed.
    """
    if unfit := seat.binary.unfit(seat.image.kernel_version):
        raise HostError(f"{seat.name}: no snapshot can be made: {unfit}")
    shape = seat.shape()
    path = directory / shape.key()
    unfinished = path.with_suffix(".unfinished")  # what remains of it when this is killed
    unfinished.mkdir()
    try:
        _make(seat, context, unfinished)
        write_record(unfinished, shape, moves=True)
        return unfinished.rename(path)
    except BaseException as error:
        shutil.rmtree(unfinished)
        if isinstance(error, NotSavedError | OSError):
            raise HostError(f"{seat.name}: no snapshot could be made: {error}") from error
        raise


def _make(seat: Seat, context: MachineContext, into: Path) -> None:
    """Boot a machine of the shape, and save it in ``into`` when it is ready."""
    told = f"boot {seat.image.name} once, for a snapshot"
    with context.events.span(Kind.ACTION, told, machine=seat.name), seat.spare_nics() as nics:
        _boot_and_save(seat, context, nics, into)


def _boot_and_save(seat: Seat, context: MachineContext, nics: tuple[Nic, ...], into: Path) -> None:
    template = replace(
        context,
        events=_progress(context.events, seat.name),
        boot=lambda _, __, *told: seat.boot_template(into, nics, *told),
        origin=lambda: None,
        identity=Identity,
        ready_unit=seat.warm_until,
        on_fatal=lambda _: None,
    )
    life = Life(seat.name, template, allow_reboot=False)
    try:
        with cancellable(life.kill):
            _warm_up(life.ready(), seat, context.events)
            _save(life.vmm, into)
    except MachineError as error:
        explained = life.explain(error)  # waits for the end of a VMM that is about to end
        if _ran_out_of_disk(life):
            raise NotSavedError("the disk is full") from None
        raise explained from None
    finally:
        life.kill()


def _warm_up(channel: Channel, seat: Seat, events: EventLog) -> None:
    for step in seat.node.warm_steps:
        with events.span(Kind.COMMAND, step, machine=seat.name) as span:
            done = channel.run(step, strict=True)
            span.data["status"] = done.status
        if done.status != 0:
            raise CommandFailed(
                seat.name, step, done.status, done.stdout.decode(errors="replace"),
                done.stderr.decode(errors="replace"), expected="to succeed, as a warm step",
            )  # fmt: skip
    if channel.welcome.init == "systemd":
        # What is still under way would be done again in every clone.
        channel.run(["systemctl", "is-system-running", "--wait"], timeout=_SETTLE)
        channel.run(["udevadm", "settle"], timeout=_SETTLE)  # links such as /dev/disk/by-id


def _save(vmm: Vmm, into: Path) -> None:
    try:
        vmm.save(into)
    except Exception as error:  # of whichever VMM it is
        full = shutil.disk_usage(into).free < _ROOM
        raise NotSavedError("the disk is full" if full else str(error)) from error


def _ran_out_of_disk(life: Life) -> bool:
    """A page of a shared memory file that finds no room on the disk is a SIGBUS."""
    exit = life.vmm.exit if life.stage is not Stage.OFF else None
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
