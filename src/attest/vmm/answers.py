"""What programs have said of themselves, remembered: QEMU takes 20 ms to say its version.

An answer holds as long as the program's file and the host's libraries are what they were when it
was asked. Only a binary's is remembered: what a script says may come from any other file.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from attest.support.paths import cache_dir, mark_used

__all__ = ["Program", "recall", "remember"]

_LIBRARIES: Final = Path("/etc/ld.so.cache")
"""Written anew when a library is installed or removed; a host may have none."""

_SETTLED: Final = 2_000_000_000
"""Nanoseconds without a change, after which a file's next one surely shows in its time."""

_BINARY: Final = b"\x7fELF"


class Program(msgspec.Struct, frozen=True):
    """A program's file at one moment; one that was changed or replaced is not equal.

    Attributes:
        path: Its path.
        program: Device, inode, size, and times of change of the file that it leads to.
        libraries: The same of what the host knows of its libraries.
    """

    path: str
    program: tuple[int, ...]
    libraries: tuple[int, ...]

    @classmethod
    def at(cls, path: Path) -> Program | None:
        """The one at a path; None where its answers are not to be remembered."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if file.read(len(_BINARY)) != _BINARY:
                    return None
        except OSError:  # a program that may be run need not be readable
            return None
        if abs(time.time_ns() - status.st_ctime_ns) < _SETTLED:
            return None
        with suppress(OSError):
            return cls(str(path), _facts(status), _facts(_LIBRARIES.stat()))
        return cls(str(path), _facts(status), ())


class _Answer(msgspec.Struct, frozen=True):
    program: Program
    text: str


def recall(program: Program, option: str) -> str | None:
    """What the program said when it was given the option; None: it has to be asked."""
    with suppress(OSError, msgspec.DecodeError):
        answer = msgspec.json.decode(_record(program, option).read_bytes(), type=_Answer)
        if answer.program == program:
            return answer.text
    return None


def remember(program: Program, option: str, text: str) -> None:
    """Keep what it said, where there is a cache that can be written; what is old there goes."""
    record = _record(program, option)
    with suppress(OSError):
        record.parent.mkdir(exist_ok=True)  # `attest doctor` begins no cache
        beside = record.with_name(f"{record.name}.{os.getpid()}")
        beside.write_bytes(msgspec.json.encode(_Answer(program, text)))
        beside.rename(record)
        mark_used(record)


def _record(program: Program, option: str) -> Path:
    name = sha256(f"{program.path} {option}".encode()).hexdigest()[:32]
    return cache_dir() / "answers" / name


def _facts(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip
