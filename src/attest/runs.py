"""The directories of past runs: logs and artefacts, the last few kept."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Final

from attest.cache import cache_dir

__all__ = ["new_run_directory", "past_runs", "runs_directory"]

_KEPT: Final = 20


def runs_directory() -> Path:
    """The directory of all runs."""
    return cache_dir() / "runs"


def past_runs() -> list[Path]:
    """The directories of the runs that are kept, the last run first."""
    base = runs_directory()
    return sorted(base.iterdir(), key=_age, reverse=True) if base.is_dir() else []


def new_run_directory(name: str) -> Path:
    """A fresh directory for a run of the test ``name``; the oldest of more than 20 go."""
    base = runs_directory()
    base.mkdir(parents=True, exist_ok=True)
    for old in past_runs()[_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    stem = f"{re.sub(r'[^A-Za-z0-9._-]', '_', name) or 'test'}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        path = base / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(base / stem)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # removed by another run at this moment
        return 0.0
