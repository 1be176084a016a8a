"""What was written into a snapshot's directory, and whether it is still that.

A snapshot's memory can be gigabytes, so at use only what shows cheaply is checked: each file's size
and time of change (which no program can set), and the digest of the devices' state. A snapshot that
is to be moved, as into a Nix store, has other times there: of it no times are written down.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from attest.errors import reason_of
from attest.snapshot.shape import Shape
from attest.support.claims import release

__all__ = [
    "RECORD",
    "Record",
    "damage",
    "is_synced",
    "is_withdrawn",
    "read_record",
    "sync",
    "withdraw",
    "write_record",
]

RECORD: Final = "entry.json"
"""Without it a directory is no entry; its time of modification is that of the entry's last use."""

_WITHDRAWN: Final = "withdrawn.json"
"""What the record is called when the directory is no entry any more, on purpose: whoever uses its
files may still do so, and nobody takes it for damaged."""

_SYNCED: Final = "synced"
"""An empty file that says that all others have reached the disk."""

_BLOCK: Final = 1 << 20
"""Bytes that are hashed at a time."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class File(msgspec.Struct, frozen=True):
    """One file, as it was written; 0 as its time of change stands for any."""

    size: int
    changed_ns: int
    sha256: str


class Record(msgspec.Struct, frozen=True):
    """An entry, as it was written.

    Attributes:
        shape: What it is a snapshot of.
        made: When, in seconds since the epoch.
        boot_id: In which boot of the host it was made, and may not have reached the disk; empty: it
            has.
        files: All but the record itself.
    """

    shape: Shape
    made: float
    boot_id: str
    files: dict[str, File]


def write_record(directory: Path, shape: Shape, *, moves: bool = False) -> None:
    """Write down what is in the directory of a new entry.

    Args:
        directory: The entry.
        shape: What it is a snapshot of.
        moves: It is to be good elsewhere, too, where its files have other times. It is brought to
            the disk now, as nobody can tell there whether it was.
    """
    files = {file.name: _describe(file, moves) for file in sorted(directory.iterdir())}
    record = Record(shape, time.time(), "" if moves else _boot_id(), files)
    (directory / RECORD).write_bytes(msgspec.json.encode(record))
    for file in directory.iterdir() if moves else ():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def read_record(directory: Path) -> Record:
    """The record of an entry.

    Raises:
        OSError: There is none.
        msgspec.MsgspecError: It is none.
    """
    return msgspec.json.decode((directory / RECORD).read_bytes(), type=Record)


def damage(directory: Path, *, every_byte: bool = False) -> str:
    """What is wrong with an entry, or an empty string.

    Args:
        directory: The entry, under its final name.
        every_byte: Read all of it; else only what shows cheaply is found.
    """
    try:
        record = read_record(directory)
    except (OSError, msgspec.MsgspecError) as error:
        return f"{RECORD}: {error}"
    if record.shape.key() != directory.name or "state" not in record.files:
        return f"{RECORD}: it is that of another entry, or of another version of attest"
    if record.boot_id not in ("", _boot_id()) and not is_synced(directory):
        return "the host went down before it had reached the disk"
    for name, file in record.files.items():
        whole = every_byte or (name == "state" and _is_small(file))
        if wrong := _differs(directory / name, file, whole=whole):
            return f"{name}: {wrong}"
    return ""


def withdraw(directory: int) -> None:
    """Let a directory be no entry any more, at one moment; nothing happens where it is none.

    Args:
        directory: A descriptor of it.
    """
    with suppress(FileNotFoundError):
        os.rename(RECORD, _WITHDRAWN, src_dir_fd=directory, dst_dir_fd=directory)


def is_withdrawn(directory: Path) -> bool:
    """Whether it was an entry that did not restore, or was damaged, and somebody has said so."""
    return (directory / _WITHDRAWN).exists()


def is_synced(directory: Path) -> bool:
    """Whether it has reached the disk; until then an entry is good for this boot alone."""
    return (directory / _SYNCED).exists()


def sync(directory: int) -> None:
    """Bring an entry to the disk, and say so in it.

    Args:
        directory: A descriptor of it, by which it is held meanwhile; it is closed.
    """
    try:
        with suppress(OSError):  # it is being removed
            fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
            for name in os.listdir(directory):
                _fsync(name, os.O_RDONLY, directory)
            _fsync(_SYNCED, os.O_WRONLY | os.O_CREAT, directory)
            os.fsync(directory)
    finally:
        release(directory)


def _fsync(name: str, flags: int, directory: int) -> None:
    file = os.open(name, flags, 0o644, dir_fd=directory)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _describe(path: Path, moves: bool) -> File:
    status = path.stat()
    return File(status.st_size, 0 if moves else status.st_ctime_ns, _digest(path))


def _differs(path: Path, file: File, *, whole: bool) -> str:
    try:
        status = path.stat()
        if status.st_size != file.size:
            return f"{status.st_size} bytes, {file.size} were written"
        if file.changed_ns not in (0, status.st_ctime_ns):
            return "it was changed after it had been written"
        if whole and _digest(path) != file.sha256:
            return "its content is not what was written"
    except OSError as error:
        return error.strerror or reason_of(error)
    return ""


def _is_small(file: File) -> bool:
    """Devices alone: with the memory in it, it would be read and hashed at every start."""
    return file.size < 4 << 20


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
    """The offsets at which a file's blocks that hold data begin."""
    place = 0
    while place < size:
        try:
            data = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        yield from range(max(place, data - data % _BLOCK), hole, _BLOCK)
        place = hole + -hole % _BLOCK
