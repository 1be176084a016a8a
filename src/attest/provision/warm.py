"""Warm sources: each machine begins as a clone of a machine of its shape that was ready before.

Where the cache has no such snapshot, one machine of the shape boots, off the networks and without
an identity, is saved when it is ready, and goes on; all others of the shape are cloned from it.

A machine with files of the host or warm steps has been others on its way: it had booted, and it had
its files. Its snapshot is made from the last of those that the cache has, as a copy of it that gets
what it lacks. Where it has none, the machine that has booted is saved, too: files and steps change
more often than images.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from functools import partial

from attest.errors import reason_of
from attest.events import EventLog, Kind
from attest.machine.contracts import InstanceContext
from attest.node.launcher import Launcher
from attest.provision.preparation import NotSavedError
from attest.provision.template import Claim, Template
from attest.snapshot.cache import Entry, Making, NoRoomError, SnapshotCache
from attest.snapshot.shape import Shape
from attest.support.cancellation import Cancelled, cancellable
from attest.support.concurrency import call_in_thread
from attest.vmm.base import Saved

__all__ = ["WarmSources"]


class WarmSources:
    """The machines of a cluster start from snapshots of their shapes.

    Args:
        cache: The snapshots that there are.
        events: Where everything that happens is reported.
        save: Make those that there are not; without, machines boot that have none.
    """

    may_boot = True

    def __init__(self, cache: SnapshotCache, events: EventLog, *, save: bool = True) -> None:
        self._cache = cache
        self._events = events
        self._save = save
        self._lock = threading.Lock()
        self._found: dict[Shape, Future[Entry | None]] = {}
        self._publishing: list[Future[None]] = []
        self._told: set[str] = set()

    def find(self, launcher: Launcher, context: InstanceContext) -> Saved | Template | None:
        """The snapshot of the machine's shape, or how it boots so that there is one.

        None where there can be none. A machine that has written its disks before boots from them:
        the memory of a snapshot would remember another content.
        """
        if launcher.disks.written:
            return None
        if unfit := launcher.unfit:
            self._warn(launcher, f"it boots without a snapshot: {unfit}")
            return None
        found = self._entry(launcher.look_at_shape(), launcher)
        source = self._make(found, launcher, context) if isinstance(found, Claim) else found
        return source.saved if isinstance(source, Entry) else source

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
        """Give the snapshots that were used free, so that the cache may remove them.

        Those that are being written down are waited for.
        """
        wait(self._publishing)
        self._cache.close()

    # Inside

    def _entry(self, shape: Shape, launcher: Launcher) -> Entry | Claim | None:
        """The snapshot of a shape; a claim where the caller is to make it, None if none can be."""
        while True:
            with self._lock:
                found = self._found.get(shape)
                if mine := found is None:
                    found = self._found[shape] = Future()
                    # Who takes over after one that was ended makes it anew.
                    found.add_done_callback(partial(self._forget_cancelled, shape))
            if mine and (claim := self._claim(shape, found, launcher)):
                return claim
            if not found.done():
                with self._events.span(Kind.WAIT, "wait for the snapshot", machine=launcher.name):
                    _await(found)
            try:
                return found.result()
            except Cancelled:
                if mine:
                    raise
                # The machine that was to make it was ended: this one takes over.

    def _claim(self, shape: Shape, found: Future[Entry | None], launcher: Launcher) -> Claim | None:
        """The right to make a snapshot; None where ``found`` has an answer."""
        try:
            obtained = self._obtain(shape, launcher)
        except BaseException as error:
            found.set_exception(error)
            return None
        if isinstance(obtained, Making):
            self._tell_why(shape, launcher)
            return Claim(shape, obtained, found)
        found.set_result(obtained)
        return None

    def _tell_why(self, shape: Shape, launcher: Launcher) -> None:
        """Say once of a machine what has changed, where there are others of its image."""
        if launcher.name in self._told:
            return
        self._told.add(launcher.name)
        from attest.snapshot.differences import why_none_fits

        there = [entry.shape for entry in self._cache.entries()]
        if why := why_none_fits(there, shape):
            self._events.emit(Kind.LOG, why, machine=launcher.name)

    def _obtain(self, shape: Shape, launcher: Launcher) -> Entry | Making | None:
        def waiting() -> None:
            text = "another run makes the snapshot: wait for it"
            self._events.emit(Kind.LOG, text, machine=launcher.name)

        def broken(wrong: str) -> None:
            self._warn(launcher, f"its snapshot was damaged and is made anew: {wrong}")

        stop = threading.Event()
        try:
            if not self._save:
                return self._cache.find(shape)
            with cancellable(stop.set):
                return self._cache.obtain(shape, stop=stop, waiting=waiting, broken=broken)
        except (NoRoomError, OSError) as error:
            self._warn_not_made(launcher, error)
            return None

    def _make(
        self, claim: Claim, launcher: Launcher, context: InstanceContext
    ) -> Entry | Template | None:
        """Make a snapshot from that of the nearest earlier shape, or let one boot for it."""
        claims = [claim]
        try:
            base = self._base(claim.shape, launcher)
            if isinstance(base, Entry):
                if entry := self._make_from(base, claim, launcher, context):
                    return entry
            elif isinstance(base, Claim):
                claims.insert(0, base)
            elif next(claim.shape.earlier(), None):  # that there can be none was told
                claim.fail(None)
                return None
        except (NotSavedError, OSError) as error:
            self._warn_not_made(launcher, error)
            claim.fail(None)
            return None
        except BaseException as error:
            claim.fail(error)
            raise
        return Template(launcher, claims, partial(self._publish, launcher), self._events)

    def _base(self, shape: Shape, launcher: Launcher) -> Entry | Claim | None:
        """The nearest earlier snapshot; the first of all is to be made where there is none."""
        first = None
        for first in shape.earlier():
            if entry := self._cache.find(first):
                return entry
        return self._entry(first, launcher) if first else None

    def _make_from(
        self, base: Entry, claim: Claim, launcher: Launcher, context: InstanceContext
    ) -> Entry | None:
        """Make a snapshot of what an earlier one becomes; None where that does not restore."""
        from attest.provision.making import SpoiltError, make

        directory = claim.making.directory
        try:
            make(claim.shape, launcher, context, directory, base)
        except SpoiltError as error:
            self._forget(base)
            text = "the snapshot from which its own is made does not restore and was removed"
            self._warn(launcher, f"{text}, so one boots: {error}")
            for file in directory.iterdir():
                file.unlink()
            return None
        claim.publish()
        return claim.entry.result()

    def _publish(self, launcher: Launcher, claim: Claim) -> None:
        def publish() -> None:
            try:
                claim.publish()
            except Exception as error:  # whatever it is, nobody may wait for it for ever
                self._warn_not_made(launcher, error)
                claim.fail(None)

        name = f"publish the snapshot of {launcher.name}"
        self._publishing.append(call_in_thread(publish, name))

    def _forget(self, base: Entry) -> None:
        """Take a snapshot out of the cache that does not restore; whoever needs it makes it."""
        with self._lock:
            self._found.pop(base.shape, None)
        self._cache.discard(base)

    def _forget_cancelled(self, shape: Shape, found: Future[Entry | None]) -> None:
        if isinstance(found.exception(), Cancelled):
            with self._lock:
                if self._found.get(shape) is found:
                    del self._found[shape]

    def _warn_not_made(self, launcher: Launcher, error: Exception) -> None:
        self._warn(launcher, f"no snapshot could be made, so it boots: {reason_of(error)}")

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
