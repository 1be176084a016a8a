"""The warm cache: snapshots of machines that are ready, kept for later runs.

An entry is a directory named after its shape's key. It is written beside and renamed into place;
whoever uses it holds a shared lock on it. Its memory can be gigabytes, so at use only what shows
cheaply is checked: each file's size and time of change (which no program can set), and the digest
of the devices' state. `verify` reads everything.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from attest.cache import cache_dir
from attest.image.claim import remove, sweep
from attest.snapshot.shape import Shape
from attest.vmm.base import Saved

__all__ = ["Entry", "NoRoomError", "SnapshotCache", "Stopped"]

_LIMIT: Final = 20 << 30
_SHARE: Final = 0.2
"""The cache may grow to 20 GiB, or to this part of the disk's free space, whichever is less."""

_MARGIN: Final = 64 << 20
"""Bytes left free beside a snapshot's memory."""

_BLOCK: Final = 1 << 20
"""Bytes that are hashed at a time."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_RECORD: Final = "entry.json"
_SYNCED: Final = "synced"
"""An empty file that says that all others have reached the disk."""


class Stopped(Exception):
    """The wait for a snapshot was ended: its machine is not wanted any more."""


class NoRoomError(Exception):
    """The disk has no room for the snapshot; the text says how much is missing."""


class _File(msgspec.Struct, frozen=True):
    size: int
    changed_ns: int
    sha256: str


class _Record(msgspec.Struct, frozen=True):
    shape: Shape
    made: float
    boot_id: str
    files: dict[str, _File]


@dataclass(frozen=True)
class Entry:
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
        """What clones start from."""
        memory = None if self.shape.hugepages else self.path / "memory"
        disks = tuple(self.path / f"disk{index}" for index in range(len(self.shape.disks)))
        return Saved(memory, self.path / "state", disks)


class SnapshotCache:
    """The cache; several processes may use it at once.

    Args:
        directory: Where; by default ``snapshots`` in attest's cache directory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or cache_dir() / "snapshots"
        self._held: dict[Path, int] = {}

    def obtain(
        self,
        shape: Shape,
        make: Callable[[Path], None],
        *,
        stop: threading.Event,
        waiting: Callable[[], None],
        broken: Callable[[str], None],
    ) -> Entry:
        """The snapshot of a shape, made when there is none; it stays until `release`.

        Args:
            shape: What is wanted.
            make: Fills an empty directory with ``memory``, ``state`` and each ``disk0``, ….
            stop: Ends the wait for another process that makes the same.
            waiting: Called before such a wait.
            broken: Called with what is wrong with an entry that is thrown away.

        Raises:
            Stopped: ``stop`` was set.
            NoRoomError: The disk has too little room for it.
            Exception: Whatever ``make`` raises.
        """
        path = self.directory / shape.key()
        pause = 0.0
        while not stop.is_set():
            if entry := self._use(path, broken):
                return entry
            with self._claim(path.name) as work:
                if work is not None:
                    if not path.exists():  # made while this one waited for the claim
                        self._make(shape, path, work, make)
                    continue
            if not pause:
                waiting()
            pause = min(pause * 1.5 + 0.005, 0.25)
            stop.wait(pause)
        raise Stopped

    def entries(self) -> list[Entry]:
        """All entries, the one used last first."""
        found = [entry for path in self._paths() if (entry := _read(path))]
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def verify(self, entry: Entry) -> str:
        """What is wrong with an entry, all its bytes read; empty when nothing is."""
        try:
            record = _decode(entry.path)
        except (OSError, msgspec.MsgspecError) as error:
            return f"{_RECORD}: {error}"
        for name, file in record.files.items():
            if wrong := _differs(entry.path / name, file):
                return wrong
            if _digest(entry.path / name) != file.sha256:
                return f"{name}: its content is not what was written"
        return ""

    def remove(self, entry: Entry) -> bool:
        """Remove an entry; False when a run uses it."""
        return self._remove(entry.path)

    def discard(self, entry: Entry) -> None:
        """Take an entry that did not restore out of the cache.

        Runs that use it keep what they have opened.
        """
        self.release(entry)
        self._take_away(entry.path)

    def gc(self, *, max_age: float) -> list[Entry]:
        """Remove what nobody needs: what is old, beyond the limit, or left by killed runs.

        Args:
            max_age: Seconds since the last use.

        Returns:
            The removed entries.
        """
        self._sweep()
        oldest = time.time() - max_age
        removed = [entry for entry in self.entries() if entry.last_used < oldest]
        removed = [entry for entry in removed if self.remove(entry)]
        return removed + self._trim()

    def limit(self) -> int:
        """Bytes that the cache may take."""
        self.directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.directory).free + sum(each.size for each in self.entries())
        return min(_LIMIT, int(free * _SHARE))

    def release(self, entry: Entry) -> None:
        """Let others remove the entry."""
        descriptor = self._held.pop(entry.path, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Release everything."""
        for path in list(self._held):
            os.close(self._held.pop(path))

    # Inside

    def _use(self, path: Path, broken: Callable[[str], None]) -> Entry | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if wrong := _wrong(path):
            os.close(descriptor)
            if path.exists():  # and not removed by another process at this moment
                broken(wrong)
                self._take_away(path)
            return None
        with suppress(OSError):  # a cache that this user may only read
            os.utime(path / _RECORD)
        if path in self._held:
            os.close(descriptor)
        else:
            self._held[path] = descriptor
        return _read(path)

    def _make(self, shape: Shape, path: Path, work: Path, make: Callable[[Path], None]) -> None:
        self._sweep()
        need = (shape.memory << 20) + _MARGIN
        free = shutil.disk_usage(work).free
        if free < need:
            raise NoRoomError(
                f"{self.directory} has {free >> 20} MiB free, the snapshot may need {need >> 20}"
            )
        out = work / "out"
        out.mkdir()
        make(out)
        files = {file.name: _describe(file) for file in sorted(out.iterdir())}
        record = _Record(shape, time.time(), _boot_id(), files)
        (out / _RECORD).write_bytes(msgspec.json.encode(record))
        out.rename(path)
        self._trim(keep=path)
        threading.Thread(target=_sync, args=[path], name="sync a snapshot", daemon=True).start()

    def _trim(self, keep: Path | None = None) -> list[Entry]:
        """Remove entries, oldest use first, until the rest fits the limit."""
        entries, removed = self.entries(), []
        excess = sum(entry.size for entry in entries) - self.limit()
        for entry in reversed(entries):
            if excess <= 0:
                break
            if entry.path != keep and self.remove(entry):
                excess -= entry.size
                removed.append(entry)
        return removed

    def _remove(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_away(path)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _take_away(self, path: Path) -> None:
        """Out of the cache at one moment, then removed."""
        building = self.directory / "making"
        building.mkdir(parents=True, exist_ok=True)
        aside = building / f"{path.name}.{os.urandom(4).hex()}"
        with suppress(FileNotFoundError):
            path.rename(aside)
            remove(aside)

    def _claim(self, key: str) -> _Claim:
        return _Claim(self.directory / "making" / key)

    def _sweep(self) -> None:
        making = self.directory / "making"
        for path in sorted(making.iterdir()) if making.is_dir() else ():
            sweep(path)

    def _paths(self) -> Iterator[Path]:
        if self.directory.is_dir():
            yield from (path for path in sorted(self.directory.iterdir()) if path.name != "making")


class _Claim:
    """A working directory that one process at a time has; None for all others, at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Path | None:
        self._path.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None  # its owner has just removed it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(self._path.stat(), os.fstat(descriptor)):
                for left_behind in self._path.iterdir():
                    remove(left_behind)
                self._descriptor = descriptor
                return self._path
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            remove(self._path)
            os.close(self._descriptor)


def _wrong(path: Path) -> str:
    """What shows cheaply to be wrong with an entry; empty when nothing does."""
    try:
        record = _decode(path)
    except (OSError, msgspec.MsgspecError) as error:
        return f"{_RECORD}: {error}"
    if record.boot_id != _boot_id() and not (path / _SYNCED).exists():
        return "the host went down before it had reached the disk"
    for name, file in record.files.items():
        if wrong := _differs(path / name, file):
            return wrong
    state = record.files.get("state")
    if state is None:
        return "state: missing"
    if _is_small(state) and _digest(path / "state") != state.sha256:
        return "state: its content is not what was written"
    return ""


def _describe(path: Path) -> _File:
    status = path.stat()
    return _File(status.st_size, status.st_ctime_ns, _digest(path))


def _is_small(file: _File) -> bool:
    """Devices alone: with the memory in it, it would be read and hashed at every start."""
    return file.size < 4 << 20


def _differs(path: Path, file: _File) -> str:
    try:
        status = path.stat()
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    if status.st_size != file.size:
        return f"{path.name}: {status.st_size} bytes, {file.size} were written"
    if status.st_ctime_ns != file.changed_ns:
        return f"{path.name}: it was changed after it had been written"
    return ""


def _read(path: Path) -> Entry | None:
    try:
        record = _decode(path)
        files = [file.stat() for file in path.iterdir()]
        used = (path / _RECORD).stat().st_mtime
    except (OSError, msgspec.MsgspecError):
        return None
    size = sum(status.st_blocks * 512 for status in files)
    return Entry(path, record.shape, record.made, used, size)


def _decode(path: Path) -> _Record:
    return msgspec.json.decode((path / _RECORD).read_bytes(), type=_Record)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _digest(path: Path) -> str:
    """SHA-256 of the file's blocks that are not all zero, each with its place; holes cost nothing.

    So it does not matter where the file system sees a hole and where a block of zeros.
    """
    digest = hashlib.sha256()
    zeros = bytes(_BLOCK)
    with path.open("rb", buffering=0) as file:
        for place in _places(file.fileno(), os.fstat(file.fileno()).st_size):
            block = os.pread(file.fileno(), _BLOCK, place)
            if block != zeros[: len(block)]:
                digest.update(place.to_bytes(8))
                digest.update(block)
    return digest.hexdigest()


def _places(descriptor: int, size: int) -> Iterator[int]:
    """Where the blocks that hold data begin."""
    place = 0
    while place < size:
        try:
            data = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        yield from range(max(place, data - data % _BLOCK), hole, _BLOCK)
        place = hole + -hole % _BLOCK


def _sync(path: Path) -> None:
    """Bring a new entry to the disk, and say so; until then it is good for this boot alone."""
    with suppress(OSError):  # it has been removed meanwhile
        for file in path.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        (path / _SYNCED).touch()
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
