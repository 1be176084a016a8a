"""The directories of past runs: logs and artefacts, the last few kept.

Whoever uses one holds it, by a lock on the directory itself that ends with its process, however
that ends: only what nobody holds is removed.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attest.errors import HostError, UsageError
from attest.support.claims import lock, locked, release, share
from attest.support.paths import cache_dir

__all__ = ["held", "new_run_directory", "past_runs", "runs_directory"]

_KEPT: Final = 20


def runs_directory() -> Path:
    """The directory in which each run has a directory of its own."""
    return cache_dir() / "runs"


def past_runs() -> list[Path]:
    """The directories of the runs that are kept, the last run first."""
    base = runs_directory()
    if not base.is_dir():
        return []
    return sorted((each for each in base.iterdir() if each.is_dir()), key=_age, reverse=True)


@contextmanager
def new_run_directory(name: str) -> Iterator[Path]:
    """A fresh directory for a run of the test ``name``, held until the end of the ``with`` block.

    The oldest of more than 20 go, unless somebody holds them.

    Raises:
        HostError: It cannot be made.
    """
    try:
        path, descriptor = _make(name)
    except OSError as error:
        place = error.filename or runs_directory()
        raise HostError(
            f"cannot make a directory for the run: {place}: {error.strerror or error}",
            hint="set XDG_CACHE_HOME to a directory that can be written, or name one with --out",
        ) from error
    try:
        yield path
    finally:
        release(descriptor)


@contextmanager
def held(run: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the directory of a run, so that no other run removes it or writes into it.

    Nothing happens when it is gone, or its file system has no locks.

    Args:
        run: The directory, wherever it is.
        alone: A run writes into it, which one at a time does.

    Raises:
        UsageError: Another run has it, or is being resumed from it.
    """

    def refuse() -> None:
        raise UsageError(
            f"{run} is in use by another run", hint="each run needs a directory of its own"
        )

    descriptor = None
    with suppress(OSError):  # such as on NFS
        descriptor = lock(run, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, refuse)
    try:
        yield
    finally:
        if descriptor is not None:
            release(descriptor)


def _make(name: str) -> tuple[Path, int]:
    """A new directory, and a descriptor that holds it."""
    base = runs_directory()
    base.mkdir(parents=True, exist_ok=True)
    for old in past_runs()[_KEPT - 1 :]:
        with suppress(OSError):  # it is another user's
            _remove(old)
    stem = f"{re.sub(r'[^A-Za-z0-9._-]', '_', name) or 'test'}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        path = base / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            # Alone at first: another run may have taken it for an old one, and a third have made
            # one of the same name, which that holds.
            descriptor = lock(path, fcntl.LOCK_EX)
            if descriptor is not None and share(path, descriptor):
                return path, descriptor
    raise FileExistsError(base / stem)


def _remove(run: Path) -> None:
    """Remove the directory of a run that nobody holds."""
    with locked(run, fcntl.LOCK_EX) as free:
        if free:
            shutil.rmtree(run, ignore_errors=True)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # removed by another run at this moment
        return 0.0
