"""Cloud Hypervisor's event monitor: what happens to a guest, told through a pipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import FileIO
from typing import NamedTuple

__all__ = ["GuestEvent", "read_events"]


class GuestEvent(NamedTuple):
    """Something that has happened: to what, such as ``vm``, and what, such as ``rebooted``."""

    source: str
    name: str


def read_events(pipe: FileIO) -> Iterator[GuestEvent]:
    """All events as they come, until the other end is closed.

    They are JSON objects of several lines, each with an empty line behind it. One of which a part
    is missing is left out: Cloud Hypervisor does not wait for a reader that is slow. So is what is
    no event.
    """
    rest = b""
    while data := pipe.read(65_536):
        *texts, rest = (rest + data).split(b"\n\n")
        for text in texts:
            try:
                told = json.loads(text)
                event = GuestEvent(told["source"], told["event"])
            except (ValueError, TypeError, KeyError):
                continue
            yield event
