"""A directory that one process at a time works in.

The lock is on the directory itself, so it ends with its process, however that ends, and no lock
files are left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attest.image.namespace import remove_as_root

__all__ = ["claimed", "sweep"]


@contextmanager
def claimed(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Have the directory, empty, for oneself; it is removed at the end.

    Args:
        path: The directory; made when it is not there.
        waiting: Called before waiting for another process that has it.
    """
    while (descriptor := _lock(path, waiting)) is None:
        pass
    try:
        for left_behind in path.iterdir():
            remove(left_behind)
        yield path
    finally:
        remove(path)
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Remove the directory when no process has it."""
    with suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_open(path, descriptor):
                remove(path)
        finally:
            os.close(descriptor)


def _lock(path: Path, waiting: Callable[[], None]) -> int | None:
    """A locked descriptor of the directory, or None when it was removed meanwhile."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if _is_open(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _is_open(path: Path, descriptor: int) -> bool:
    """Whether the descriptor is still what the path names."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a file or tree, also one whose files belong to ids of a build's user namespace."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        remove_as_root(path)
