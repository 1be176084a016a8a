"""Figures of a series of measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["row"]


def row(name: str, seconds: Sequence[float]) -> str:
    """One line: median, 99th percentile and range of a series, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
    cells = (statistics.median(ordered), p99, ordered[0], ordered[-1])
    figures = "  ".join(f"{cell * 1000:9.2f}" for cell in cells)
    return f"{name:44}  {figures}  ({len(ordered)})"


HEADER = f"{'milliseconds':44}  {'median':>9}  {'p99':>9}  {'least':>9}  {'most':>9}"
