"""What a guest has logged: its journal and its kernel's messages, for the report of a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from attest.errors import MachineError
from attest.guest.channel import Channel, Command

__all__ = ["fetch_logs"]

_JOURNAL: Final = ["journalctl", "--no-pager", "--quiet", "--output=short-iso-precise"]
_KERNEL: Final = ["dmesg"]
_CLOCKS: Final = "cat /proc/uptime; date +%s"


def fetch_logs(
    name: str, channel: Channel, directory: Path, age: float, limit: float
) -> tuple[str, list[str]]:
    """Write a guest's logs into files, as far as it has them.

    Args:
        name: The machine's name.
        channel: The connection to its agent.
        directory: Where the files go: ``journal-NAME.log`` and ``kernel-NAME.log``.
        age: The seconds that have passed since what is looked for began.
        limit: Seconds that each may take.

    Returns:
        What it is called, and the lines that came in the last ``age`` seconds, by the guest's own
        clocks: the journal's, which has the kernel's, or the kernel's where there is no journal.

    Raises:
        MachineError: It does not answer.
        OSError: A file cannot be written.
    """
    told = channel.run(Command(_CLOCKS, timeout=limit)).stdout.split()
    if len(told) != 3:
        raise MachineError(name, "did not tell its clocks in time")
    uptime, now = float(told[0]), float(told[-1])
    kernel = _fetch(channel, _KERNEL, directory / f"kernel-{name}.log", limit)
    journal = _fetch(channel, _JOURNAL, directory / f"journal-{name}.log", limit)
    if journal is not None:
        return "journal", list(_lines_since(journal, _moment, now - age))
    if kernel is not None:
        return "kernel log", list(_lines_since(kernel, _seconds_of_uptime, uptime - age))
    return "", []


def _fetch(channel: Channel, words: list[str], path: Path, limit: float) -> Path | None:
    """Write a program's output into a file; None where there is no such program, or no output."""
    with path.open("wb") as file:
        process = channel.start(Command(words, timeout=limit), stdout=file.write)
        try:
            with suppress(MachineError):  # there is no such program
                process.wait()
        finally:
            process.abandon()
    if path.stat().st_size:
        return path
    path.unlink()
    return None


def _lines_since(
    path: Path, moment_of: Callable[[str], float | None], since: float
) -> Iterator[str]:
    """Its lines from a moment on; those that have none belong to the line before."""
    found = False
    with path.open(errors="replace") as lines:
        for line in lines:
            moment = moment_of(line)
            if moment is not None:
                found = moment >= since
            if found:
                yield line.rstrip("\n")


def _moment(line: str) -> float | None:
    """Seconds since the epoch."""
    with suppress(ValueError):
        return datetime.fromisoformat(line.partition(" ")[0]).timestamp()
    return None


def _seconds_of_uptime(line: str) -> float | None:
    with suppress(ValueError):
        return float(line.partition("]")[0].strip("[ "))
    return None
