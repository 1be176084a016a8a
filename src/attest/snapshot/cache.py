"""The warm cache: snapshots of machines that are ready, kept for later runs.

    KEY/            an entry, named after its shape's key; whoever uses it holds a shared lock on
                    it; withdrawn, it is none any more, and stays while others use it
    making/KEY/     the claim on a key, locked by who puts its entry in place or takes it out
    making/KEY.…/   what was taken out

Entries are written in their claim and renamed into place, so none is ever half there. Locks are on
the directories themselves: they end with their process, however that ends, and what nobody holds in
``making`` was left by a killed one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from attest.snapshot import record
from attest.snapshot.shape import Shape
from attest.support.claims import claimed_at_once, lock, locked, release, remove, sweep
from attest.support.paths import cache_dir
from attest.vmm.base import Saved, saved_in

__all__ = [
    "Entry",
    "Making",
    "NoRoomError",
    "Removed",
    "SnapshotCache",
    "Stopped",
    "Why",
    "read_entry",
]

_SHARE: Final = 0.2
"""The part of the disk's free space to which the cache may grow."""

_MARGIN: Final = 64 << 20
"""Bytes left free beside a snapshot's memory."""

_LONGEST_PAUSE: Final = 0.25
"""Seconds between two looks at what another process makes."""


class Stopped(Exception):
    """The wait for a snapshot was ended: its machine is not wanted any more."""


class NoRoomError(Exception):
    """The disk has no room for the snapshot; the text says how much is missing."""


class Entry(msgspec.Struct, frozen=True):
    """A snapshot in the cache.

    Attributes:
        path: Its directory, named after its key.
        shape: What it is a snapshot of.
        made: When, in seconds since the epoch.
        last_used: When it was used last.
        size: Bytes that it takes on the disk.
    """

    path: Path
    shape: Shape
    made: float
    last_used: float
    size: int

    @property
    def saved(self) -> Saved:
        """The files from which clones start."""
        disks = tuple(self.path / f"disk{index}" for index in range(len(self.shape.disks)))
        return saved_in(self.path, disks)


class Making:
    """The right to make an entry, which no other process has meanwhile.

    Args:
        directory: See there.
        publish: Makes an entry of what is in it.
        claim: Ends the right.

    Attributes:
        directory: An empty directory, to be filled with ``state``, ``memory`` where that can be
            mapped, and each ``disk0``, ….
    """

    def __init__(self, directory: Path, publish: Callable[[Path], Entry], claim: ExitStack) -> None:
        self.directory = directory
        self._publish = publish
        self._claim = claim

    def publish(self) -> Entry:
        """Let it be an entry, which stays until it is discarded or the cache is closed.

        Raises:
            OSError: It cannot be written.
        """
        with self._claim:
            return self._publish(self.directory)

    def give_up(self) -> None:
        """Remove what was made of it; nothing happens where it was published."""
        self._claim.close()


class Why(StrEnum):
    """A reason for which a snapshot was removed from the cache; its value is for people."""

    OLD = "not used for long"
    LIMIT = "the cache was beyond its limit"
    WITHDRAWN = "it did not restore, or was damaged"
    UNREADABLE = "its record cannot be read"
    LEFT = "left by a run that was killed"


class Removed(msgspec.Struct, frozen=True):
    """What was removed from the cache.

    Attributes:
        key: The key of its shape.
        image_name: The name of its image; empty where that is not known.
        why: The reason.
    """

    key: str
    image_name: str
    why: Why


class SnapshotCache:
    """The cache; several processes may use it at once.

    Args:
        directory: Where; by default ``snapshots`` in attest's cache directory.
        largest: Bytes to which it may grow, or to a fifth of the disk's free space where that is
            less.
    """

    def __init__(self, directory: Path | None = None, *, largest: int = 20 << 30) -> None:
        self.directory = directory or cache_dir() / "snapshots"
        self._largest = largest
        self._making = self.directory / "making"
        self._held: dict[Path, int] = {}

    def obtain(
        self,
        shape: Shape,
        *,
        stop: threading.Event,
        waiting: Callable[[], None],
        broken: Callable[[str], None],
    ) -> Entry | Making:
        """The snapshot of a shape, or the right to make it when there is none.

        Args:
            shape: What is wanted.
            stop: Ends the wait for another process that makes the same.
            waiting: Called before such a wait.
            broken: Called with what is wrong with an entry that is thrown away.

        Returns:
            The entry, which stays until `discard` or `close`; or what is to be made, which the
            caller publishes or gives up.

        Raises:
            Stopped: ``stop`` was set.
            NoRoomError: The disk has too little room for it.
            OSError: The cache cannot be written or read.
        """
        path = self.directory / shape.key()
        with suppress(OSError):  # a cache that this user may only read
            sweep(self._making / path.name)
        turn = 0
        while not stop.is_set():
            if entry := self._use(path):
                return entry
            with ExitStack() as claim:
                work = claim.enter_context(self._claim(path.name))
                if work is not None:
                    # Another process may have made it just before.
                    if entry := self._use(path):
                        return entry
                    self._make_room(shape, path, work, broken)
                    return Making(
                        work / "out", partial(self._publish, shape, path), claim.pop_all()
                    )
            if turn == 1:  # at first, it may have been swept at that moment
                waiting()
            stop.wait(min(0.01 * turn, _LONGEST_PAUSE))
            turn += 1
        raise Stopped

    def find(self, shape: Shape) -> Entry | None:
        """The snapshot of a shape, which stays until `discard` or `close`; None if there is none.

        Raises:
            OSError: The cache cannot be read.
        """
        return self._use(self.directory / shape.key())

    def entries(self) -> list[Entry]:
        """All entries, the one used last first."""
        found = [entry for path in self._paths() if (entry := read_entry(path))]
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def verify(self) -> Iterator[tuple[Path, str]]:
        """Read every byte of every entry, and remove those that are damaged.

        Yields:
            An entry's directory, and what was wrong with it, or an empty string.
        """
        for path in self._paths():
            descriptor = lock(path, fcntl.LOCK_SH)
            if descriptor is None:
                continue  # it is being removed
            if record.is_withdrawn(path):
                release(descriptor)
                continue
            if wrong := record.damage(path, every_byte=True):
                self._give_up(path, descriptor)
            else:
                release(descriptor)
            yield path, wrong

    def remove(self, entry: Entry) -> bool:
        """Remove an entry; False when a run uses it."""
        return self._remove(entry.path)

    def discard(self, entry: Entry) -> None:
        """Take an entry that did not restore out of the cache.

        Other runs that use it keep what they have opened; the last one's files go with `sweep`.
        """
        descriptor = self._held.pop(entry.path, None)
        if descriptor is None:  # another machine that met it was faster
            return
        with suppress(OSError):  # a cache that this user may only read
            self._give_up(entry.path, descriptor)

    def gc(self, *, max_age: float) -> list[Removed]:
        """Remove what nobody needs: what is old, beyond the limit, or left by killed runs.

        Args:
            max_age: Seconds since the last use.

        Returns:
            What was removed.
        """
        removed = self.sweep()
        oldest = time.time() - max_age
        for entry in self.entries():
            if entry.last_used < oldest and self.remove(entry):
                removed.append(_removed(entry, Why.OLD))
        return removed + self._trim()

    def sweep(self) -> list[Removed]:
        """Remove what is no entry: withdrawn, left by killed runs, or without a record to read."""
        removed = self._sweep()
        for path in self._paths():
            why = Why.WITHDRAWN if record.is_withdrawn(path) else Why.UNREADABLE
            if read_entry(path) is None and self._remove(path):
                removed.append(Removed(path.name, "", why))
        return removed

    def limit(self) -> int:
        """How many bytes the cache may take; less on a disk that has little room."""
        self.directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.directory).free
        return min(self._largest, int(_SHARE * (free + self._size())))

    def close(self) -> None:
        """Give the snapshots that were used free, so that any process may remove them."""
        while self._held:
            release(self._held.popitem()[1])

    # Inside

    def _use(self, path: Path) -> Entry | None:
        """The entry, held; None when there is none, or it is damaged."""
        descriptor = lock(path, fcntl.LOCK_SH)
        if descriptor is None:
            return None
        entry = None if record.damage(path) else read_entry(path)
        if entry is None:
            release(descriptor)
            return None
        with suppress(OSError):  # a cache that this user may only read
            os.utime(path / record.RECORD)
        if not record.is_synced(path):
            _sync_behind(descriptor)
        if path in self._held:
            release(descriptor)
        else:
            self._held[path] = descriptor
        return entry

    def _make_room(
        self, shape: Shape, path: Path, work: Path, broken: Callable[[str], None]
    ) -> None:
        if path.exists():
            wrong = record.damage(path)
            # In this order, as it may be withdrawn at this moment: whoever does so says why.
            if not record.is_withdrawn(path):
                broken(wrong)
            sweep(self._set_aside(path))
        self._sweep()
        self._trim()
        need = (shape.memory << 20) + _MARGIN
        free = shutil.disk_usage(work).free
        if free < need:
            raise NoRoomError(
                f"{self.directory} has {free >> 20} MiB free, the snapshot may need {need >> 20}"
            )
        (work / "out").mkdir()

    def _publish(self, shape: Shape, path: Path, out: Path) -> Entry:
        record.write_record(out, shape)
        out.rename(path)
        entry = self._use(path)
        if entry is None:  # a file system that changes times later would have it made for ever
            raise OSError(f"{path}: {record.damage(path)}")
        self._trim()
        return entry

    def _trim(self) -> list[Removed]:
        """Remove what is no entry, and entries, oldest use first, until the rest fits the limit."""
        removed = self.sweep() if self._size() > self.limit() else []
        for entry in reversed(self.entries()):
            if self._size() <= self.limit():
                break
            if self.remove(entry):
                removed.append(_removed(entry, Why.LIMIT))
        return removed

    def _size(self) -> int:
        return sum(_size(path) for path in self._paths())

    def _give_up(self, path: Path, descriptor: int) -> None:
        """Let no run begin to use an entry that this one holds, and remove it if no other does."""
        try:
            record.withdraw(descriptor)
        finally:
            release(descriptor)
        if not (path / record.RECORD).exists():  # else it is a new one already
            self._remove(path)

    def _remove(self, path: Path) -> bool:
        with self._claim(path.name) as work:
            if work is None:
                return False
            with locked(path, fcntl.LOCK_EX) as free:
                if not free:
                    return not path.exists()
                remove(self._set_aside(path))
        return True

    def _set_aside(self, path: Path) -> Path:
        """Take an entry out at one moment; the claim on it is held."""
        return path.rename(self._making / f"{path.name}.{os.urandom(4).hex()}")

    def _claim(self, key: str) -> AbstractContextManager[Path | None]:
        """A working directory that one process at a time has; None for all others, at once."""
        return claimed_at_once(self._making / key)

    def _sweep(self) -> list[Removed]:
        paths = sorted(self._making.iterdir()) if self._making.is_dir() else []
        left = [path for path in paths if sweep(path)]
        return [Removed(path.name.partition(".")[0], "", Why.LEFT) for path in left]

    def _paths(self) -> Iterator[Path]:
        paths = sorted(self.directory.iterdir()) if self.directory.is_dir() else []
        return (path for path in paths if re.fullmatch("[0-9a-f]{64}", path.name))


def _sync_behind(held: int) -> None:
    """Bring an entry to the disk in the background.

    A run often ends before that is done, so each that uses the entry goes on with it.
    """
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=held)
    threading.Thread(
        target=record.sync, args=[directory], name="sync a snapshot", daemon=True
    ).start()


def read_entry(path: Path) -> Entry | None:
    """The entry in a directory, damaged or not; None where there is none that can be read."""
    try:
        written = record.read_record(path)
        used = (path / record.RECORD).stat().st_mtime
    except (OSError, msgspec.MsgspecError):
        return None
    return Entry(path, written.shape, written.made, used, _size(path))


def _size(path: Path) -> int:
    """Bytes that a directory's files take on the disk; it may be removed at this moment."""
    try:
        return sum(file.stat().st_blocks * 512 for file in path.iterdir())
    except OSError:
        return 0


def _removed(entry: Entry, why: Why) -> Removed:
    return Removed(entry.path.name, entry.shape.image_name, why)
