"""The event stream as a file: one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from attest.events import Event, EventLog

__all__ = ["journal"]


@contextmanager
def journal(events: EventLog, path: Path) -> Iterator[None]:
    """Write every event to ``path``, as it happens, until the end of the ``with`` block."""
    encoder = msgspec.json.Encoder()
    with path.open("wb", buffering=0) as file:

        def write(event: Event) -> None:
            file.write(encoder.encode(event) + b"\n")

        events.subscribe(write)
        try:
            yield
        finally:
            events.unsubscribe(write)
