"""Figures of a series of measurements, and what is the same in all of them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

__all__ = ["HEADER", "environment", "row"]


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
