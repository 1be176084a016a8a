"""How directories come into the image store, and leave it: each at one moment, as a whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from attest.support.claims import claimed, lock, locked, release

__all__ = ["discard", "entries", "hold", "link", "publish", "publish_held"]


def entries(directory: Path) -> Iterator[Path]:
    """What is in a directory of the store, in order; nothing where there is none."""
    return iter(sorted(directory.iterdir()) if directory.is_dir() else ())


def publish(built: Path, path: Path) -> None:
    """Rename a complete directory into place, the content of its own files on disk first."""
    for file in built.iterdir():
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        built.rename(path)
    except OSError:
        if not path.is_dir():  # equal content, built at the same time, is as good
            raise


def publish_held(built: Path, path: Path, held: ExitStack) -> None:
    """Publish a directory, and hold it from that moment on until ``held`` is closed."""
    hold(built, held)  # nobody is to remove it before it is held where it goes
    while not hold(path, held):
        publish(built, path)


def hold(path: Path, held: ExitStack) -> bool:
    """Keep a directory from being discarded until ``held`` is closed; whether it is there."""
    descriptor = lock(path, fcntl.LOCK_SH, waiting=lambda: None)
    if descriptor is None:
        return False
    held.callback(release, descriptor)
    return True


def link(path: Path, target: Path, work: Path) -> None:
    """Let a name in the store lead to a directory beside its own.

    Args:
        path: The name.
        target: The directory.
        work: A directory for this alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    (work / "link").symlink_to(Path("..", target.parent.name, target.name))
    (work / "link").rename(path)


def discard(path: Path, building: Path) -> None:
    """Take a directory out of the store at one moment, then remove it; not while it is in use.

    Args:
        path: The directory; who uses it holds it, see `attest.support.claims.lock`.
        building: The store's directory of builds under way.
    """
    with (
        locked(path, fcntl.LOCK_EX) as free,
        claimed(building / f"discard-{path.name}") as work,
        suppress(FileNotFoundError),
    ):
        if free:
            path.rename(work / path.name)
