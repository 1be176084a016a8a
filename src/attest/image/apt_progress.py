"""What apt and dpkg say, as progress: bytes fetched and packages installed, of how many."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

__all__ = ["AptProgress"]

_STAGE: Final = "I: extracting"
_UNITS: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_NEED: Final = re.compile(r"Need to get ([\d.,]+) ([kMG]?B)(?:/[\d.,]+ [kMG]?B)? of archives")
_GET: Final = re.compile(r"Get:\d+ .* \[([\d.,]+) ([kMG]?B)\]$")
_NEW: Final = re.compile(r"(\d+) upgraded, (\d+) newly installed")


class AptProgress:
    """Reads the output of a step, line by line.

    Args:
        progress: Told what is being done.
        interval: Seconds between two lines about the same.
    """

    def __init__(self, progress: Callable[[str], None], interval: float = 2.0) -> None:
        self._interval = interval
        self._progress = progress
        self._bytes = _Count()
        self._packages = _Count()
        self._told = time.monotonic()

    def line(self, line: str) -> None:
        """Take the next line."""
        if line.startswith(_STAGE):
            self._progress(line.removeprefix("I: ").removesuffix("..."))
        elif found := _NEED.search(line):
            self._bytes.expect(_bytes(found))
        elif found := _NEW.search(line):
            self._packages.expect(int(found[1]) + int(found[2]))
        elif found := _GET.match(line):
            self._bytes.done += _bytes(found)
            self._tell(f"downloaded {self._bytes.text(_megabytes)} MB", self._bytes.complete)
        elif line.startswith("Setting up ") and self._packages.expected:
            self._packages.done += 1
            self._tell(f"installed {self._packages.text(str)} packages", self._packages.complete)

    def _tell(self, text: str, at_once: bool) -> None:
        if at_once or time.monotonic() - self._told >= self._interval:
            self._told = time.monotonic()
            self._progress(text)


class _Count:
    """What is done of what is expected, in one round after the other.

    Attributes:
        done: Of all rounds.
        expected: The same; 0 before the first.
    """

    def __init__(self) -> None:
        self.done = self.expected = self._before = 0

    @property
    def complete(self) -> bool:
        """All that is expected is done; sizes are told rounded."""
        return self.expected > 0 and self.done >= 0.999 * self.expected

    def expect(self, more: int) -> None:
        """Another round begins; where none of the last was done, it is told once more."""
        if self.done >= self.expected:
            self._before = self.done
        self.expected = self._before + more

    def text(self, form: Callable[[int], str]) -> str:
        """``3 of 10``, or ``3``."""
        of = f" of {form(self.expected)}" if self.expected else ""
        return form(self.done) + of


def _bytes(found: re.Match[str]) -> int:
    return round(float(found[1].replace(",", "")) * _UNITS[found[2]])


def _megabytes(count: int) -> str:
    return f"{count / 10**6:.1f}"
