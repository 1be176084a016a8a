"""Snapshots of the cache, made at once where there are none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from attest.snapshot.cache import Entry, SnapshotCache
from attest.snapshot.shape import Shape

__all__ = ["obtain"]


def obtain(
    cache: SnapshotCache,
    shape: Shape,
    make: Callable[[Path], object],
    *,
    stop: threading.Event,
    waiting: Callable[[], None],
    broken: Callable[[str], None],
) -> Entry:
    """The snapshot of a shape; where there is none, ``make`` fills its directory."""
    found = cache.obtain(shape, stop=stop, waiting=waiting, broken=broken)
    if isinstance(found, Entry):
        return found
    try:
        make(found.directory)
        return found.publish()
    finally:
        found.give_up()
