"""A directory that one process at a time works in.

The lock is on the directory itself, so it ends with its process, however that ends, and no lock
files are left. A guardian may share it, which removes the directory when its process was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attest.support.user_namespace import removal, remove_as_root

__all__ = ["claimed", "claimed_at_once", "lock", "locked", "release", "remove", "share", "sweep"]

# Waits for the end of a pipe that only the process with the claim holds. What that has done itself
# is not done again: the directory is no longer the one that the shared lock is on. The killed steps
# of a build may write for a moment more, so that a removal can fail.
_GUARDIAN: Final = """
path=$1; held=/proc/self/fd/$2; shift 2
read -r _
for pause in 0.1 1 10 0; do
    [ "$path" -ef "$held" ] || exit 0
    rm -rf --one-file-system -- "$path" || "$@" || sleep $pause
done
"""


@contextmanager
def claimed(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Have the directory, empty, for oneself; it is removed at the end, also when one is killed.

    Args:
        path: The directory; made when it is not there.
        waiting: Called before waiting for another process that has it.
    """
    while (descriptor := _lock_made(path, waiting)) is None:
        pass
    with _guarded(path.absolute(), descriptor), _own(path, descriptor):
        yield path


@contextmanager
def claimed_at_once(path: Path) -> Iterator[Path | None]:
    """Have the directory, or None, without a wait, when another process has it.

    It is removed at the end as with `claimed`, but not when one is killed.

    Args:
        path: The directory; made when it is not there.
    """
    descriptor = _lock_made(path, None)
    if descriptor is None:
        yield None
        return
    with _own(path, descriptor):
        yield path


def sweep(path: Path) -> bool:
    """Remove the directory when no process has it; whether that was so."""
    with locked(path, fcntl.LOCK_EX) as free:
        if free:
            remove(path)
    return free


@contextmanager
def locked(path: Path, kind: int, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the directory within the ``with`` block; whether that is so, see `lock`."""
    descriptor = lock(path, kind, waiting)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            release(descriptor)


def lock(path: Path, kind: int, waiting: Callable[[], None] | None = None) -> int | None:
    """A descriptor that holds the directory; None when it is gone.

    Args:
        path: The directory.
        kind: ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX``.
        waiting: Called before waiting for others that hold it; without, None is the answer then.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        # It may have been taken away before it was locked, and another one put in its place.
        if _flock(descriptor, kind, waiting) and _is_open(path, descriptor):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def share(path: Path, descriptor: int) -> bool:
    """Let others hold a directory, too, that a descriptor holds alone.

    For a moment nobody holds it then: False, and it is closed, where it was removed in that moment.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_open(path, descriptor):
            return True
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return False


def release(descriptor: int) -> None:
    """Close a descriptor that holds a directory.

    A child that is being started has a copy of it for a moment, which would hold it too.
    """
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _lock_made(path: Path, waiting: Callable[[], None] | None) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # `exist_ok` fails when it is removed at that moment
        path.mkdir()
    return lock(path, fcntl.LOCK_EX, waiting)


def _flock(descriptor: int, kind: int, waiting: Callable[[], None] | None) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            return False
        waiting()
        fcntl.flock(descriptor, kind)
    return True


@contextmanager
def _guarded(path: Path, descriptor: int) -> Iterator[None]:
    with subprocess.Popen(
        ["sh", "-c", _GUARDIAN, "guardian", str(path), str(descriptor), *removal(path)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=[descriptor], cwd="/",
        start_new_session=True,  # what ends its process by the terminal or the group is not for it
    ):  # fmt: skip
        yield


@contextmanager
def _own(path: Path, descriptor: int) -> Iterator[None]:
    try:
        for left_behind in path.iterdir():
            remove(left_behind)
        yield
    finally:
        remove(path)
        os.close(descriptor)


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
