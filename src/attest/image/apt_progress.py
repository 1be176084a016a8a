"""What apt and dpkg say, as progress: bytes fetched and packages installed, of how many."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

__all__ = ["AptProgress"]

_INTERVAL: Final = 2.0
"""Seconds between two lines about the same."""

_STAGE: Final = "I: extracting"
_UNITS: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_NEED: Final = re.compile(r"Need to get ([\d.,]+) ([kMG]?B)(?:/[\d.,]+ [kMG]?B)? of archives")
_GET: Final = re.compile(r"Get:\d+ .* \[([\d.,]+) ([kMG]?B)\]$")
_NEW: Final = re.compile(r"(\d+) upgraded, (\d+) newly installed")


class AptProgress:
    """Reads the output of a step, line by line.

    Args:
        progress: Told what is being done.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._needed = 0
        self._fetched = 0
        self._packages = 0
        self._installed = 0
        self._told = 0.0

    def line(self, line: str) -> None:
        """Take the next line."""
        if line.startswith(_STAGE):
            self._progress(line.removeprefix("I: ").removesuffix("..."))
        elif found := _NEED.search(line):
            self._needed += _bytes(found)
        elif found := _NEW.search(line):
            self._packages += int(found[1]) + int(found[2])
        elif found := _GET.match(line):
            self._fetched += _bytes(found)
            of = f" of {_megabytes(self._needed)}" if self._needed >= self._fetched else ""
            done = self._fetched == self._needed
            self._tell(f"downloaded {_megabytes(self._fetched)}{of} MB", done)
        elif line.startswith("Setting up "):
            self._installed += 1
            of = f" of {self._packages}" if self._packages >= self._installed else ""
            self._tell(f"installed {self._installed}{of} packages", False)

    def _tell(self, text: str, last: bool) -> None:
        if last or time.monotonic() - self._told >= _INTERVAL:
            self._told = time.monotonic()
            self._progress(text)


def _bytes(found: re.Match[str]) -> int:
    return round(float(found[1].replace(",", "")) * _UNITS[found[2]])


def _megabytes(count: int) -> str:
    return f"{count / 10**6:.1f}"
