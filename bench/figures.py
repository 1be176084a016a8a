"""Figures of a series of measurements, and what is the same in all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HEADER", "Figure", "environment", "row", "series", "table"]


@dataclass(frozen=True)
class Figure:
    """A series of measurements, and what nothing could be faster than, of the same run.

    Attributes:
        name: What was measured.
        seconds: How long it took, each time.
        limit: What it is held to.
        limits: How long that took, each time.
    """

    name: str
    seconds: Sequence[float]
    limit: str
    limits: Sequence[float]

    @property
    def ratio(self) -> float:
        """The medians' ratio: 1 would be perfect."""
        return statistics.median(self.seconds) / statistics.median(self.limits)


def series(count: int, call: Callable[[], object], pause: float = 0.0) -> list[float]:
    """Seconds that each of so many calls takes, with a pause before each."""
    seconds = []
    for _ in range(count):
        time.sleep(pause)
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return seconds


def table(figures: Sequence[Figure]) -> list[str]:
    """A line for each: its median, that of its limit, and their ratio."""
    lines = [f"{'medians in milliseconds':46}  {'takes':>9}  {'limit':>9}  {'ratio':>6}  limit"]
    for each in figures:
        medians = (statistics.median(each.seconds), statistics.median(each.limits))
        cells = "  ".join(f"{median * 1000:9.2f}" for median in medians)
        lines.append(f"{each.name:46}  {cells}  {each.ratio:6.1f}  {each.limit}")
    return lines


def row(name: str, seconds: Sequence[float]) -> str:
    """One line: median, 99th percentile and range of a series, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
    cells = (statistics.median(ordered), p99, ordered[0], ordered[-1])
    figures = "  ".join(f"{cell * 1000:9.2f}" for cell in cells)
    return f"{name:44}  {figures}  ({len(ordered)})"


HEADER = f"{'milliseconds':44}  {'median':>9}  {'p99':>9}  {'least':>9}  {'most':>9}"


def environment(directory: Path) -> dict[str, str]:
    """The environment for a Python that finds its modules compiled, as an installed one does.

    Args:
        directory: Where they are kept; the first run fills it.
    """
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(directory / "compiled")}
