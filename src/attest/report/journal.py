"""The event stream as a file: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import msgspec

from attest.errors import HostError
from attest.events import Event, EventLog, Kind

__all__ = ["journal"]


@contextmanager
def journal(events: EventLog, path: Path) -> Iterator[None]:
    """Write every event to ``path``, as it happens, until the end of the ``with`` block.

    What cannot be written is left out, which is a warning among the events.

    Raises:
        HostError: The file cannot be made.
    """
    try:
        file = FileIO(path, "wb")
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    lines = _Lines(file)
    events.subscribe(lines.write, str(path))
    try:
        yield
    finally:
        events.unsubscribe(lines.write)
        try:
            file.close()
        except OSError as error:  # some network file systems tell only now what was not written
            events.emit(Kind.WARNING, f"{path} is incomplete: {error}")


class _Lines:
    """Writes each event as a line of its own, also after one of which only a part went in."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()
        self._torn = False

    def write(self, event: Event) -> None:
        """Write an event, but for output as it comes: the end of its command has that.

        Raises:
            OSError: It could not be written whole.
        """
        if event.kind is Kind.OUTPUT:
            return
        rest = memoryview(self._encoded(event) + b"\n")
        if self._torn:
            self._file.write(b"\n")
            self._torn = False
        while rest:
            rest = rest[self._file.write(rest) :]
            self._torn = bool(rest)

    def _encoded(self, event: Event) -> bytes:
        try:
            return self._encoder.encode(event)
        except UnicodeEncodeError:  # of a name that is no UTF-8, which JSON can only escape
            return json.dumps(msgspec.to_builtins(event)).encode()
