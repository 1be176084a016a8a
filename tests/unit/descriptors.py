"""What a test needs to see that no descriptor is left open."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["open_descriptors", "room_for"]


def open_descriptors() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let this process open so many descriptors more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as undo:
        highest = max(open_descriptors())
        while (filler := os.open(os.devnull, os.O_RDONLY)) <= highest:
            undo.callback(os.close, filler)
        os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, before[1]))
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        yield
