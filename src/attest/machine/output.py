"""The output of a command under way, told as it comes."""

from __future__ import annotations

import threading
from typing import Final

from attest.events import EventLog, Kind, current_span
from attest.guest.channel import Completed, Running
from attest.support.excerpt import Excerpt, excerpt
from attest.support.text import headline, plain_text

__all__ = ["Output"]

_SOON: Final = 0.3
"""Seconds after which a command's output is told as it comes; most have ended, which tells all."""

_HALF: Final = 8192
"""Bytes of the start of an output, and of its end, that go into the event of a command's end; the
test itself gets all of it."""

_LINE: Final = 4096
"""Characters of a line that are told."""

_PIECE: Final = 65_536
"""Bytes of output that wait to be told, at most."""

_TOLD: Final = 1 << 18
"""Bytes of a command's output that are told as they come: nobody reads more, and it would cost the
test its time."""

_STREAMS: Final = ("stdout", "stderr")


class Output:
    """Follows a command, see `attest.guest.channel.Follower`.

    Whole lines are events, inside the span in which it was made. What has come is told at once, but
    nothing in a command's first moments.

    Args:
        events: Where it is told.
        machine: The machine's name.
        command: The command, for what is said of it.
    """

    def __init__(self, events: EventLog, machine: str, command: str) -> None:
        self._events = events
        self._machine = machine
        self._command = command
        self._span = current_span()
        self._lock = threading.Lock()  # a backdoor shell's output comes in another thread
        self._excerpts = (Excerpt(_HALF), Excerpt(_HALF))
        self._untold = (bytearray(), bytearray())
        self._left = _TOLD
        self._is_live = False
        self._soon = _SOON
        self._noted = ""

    def output(self, channel: int, data: bytes) -> None:
        """Take what came; tell the lines that it ends."""
        with self._lock:
            self._excerpts[channel].add(data)
            if self._left <= 0:
                return
            untold = self._untold[channel]
            untold += data
            if b"\n" in data or len(untold) >= _PIECE:
                self._tell_lines(channel)

    def note(self, text: str) -> None:
        """Tell what keeps it from ending, as a warning."""
        self._noted = text
        said = f"`{headline(self._command)}`: {text}"
        self._events.emit(Kind.WARNING, said, machine=self._machine)

    def await_end(self, process: Running, timeout: float | None) -> Completed:
        """Wait for its end, and tell meanwhile what it prints.

        Raises:
            TimeoutError: It did not end in ``timeout`` seconds.
        """
        if not self._is_live:
            first = self._soon if timeout is None else min(timeout, self._soon)
            try:
                return process.wait(first)
            except TimeoutError:
                self._soon -= first
                if self._soon > 0:  # it is waited for in pieces, see `conditions.watched`
                    raise
                self._go_live()
                timeout = None if timeout is None else timeout - first
        return process.wait(timeout)

    def end(self, completed: Completed | None) -> dict[str, str]:
        """Tell the rest, where some has been told, and return what is shown of all."""
        if completed is not None and completed.held and not self._noted:
            self.note(completed.held)
        with self._lock:
            for channel, untold in enumerate(self._untold):
                if self._is_live and untold:
                    self._tell(channel, untold)
            texts = [excerpt.text() for excerpt in self._excerpts]
        return dict(zip(_STREAMS, texts, strict=True))

    def _go_live(self) -> None:
        with self._lock:
            self._is_live = True
            for channel in range(len(_STREAMS)):
                self._tell_lines(channel)

    def _tell_lines(self, channel: int) -> None:
        """Tell the lines that have ended; of one that never does, a large piece."""
        untold = self._untold[channel]
        full = len(untold) >= _PIECE
        if not self._is_live and not full:
            return
        end = untold.rfind(b"\n") + 1 or (len(untold) if full else 0)
        if end:
            self._tell(channel, untold[:end])
            del untold[:end]

    def _tell(self, channel: int, data: bytearray) -> None:
        self._is_live = True
        self._left -= len(data)
        text = plain_text(data.decode(errors="replace")).removesuffix("\n")
        lines = [excerpt(line, _LINE) for line in text.split("\n")]
        if self._left <= 0:
            lines.append("[… what it prints from here on is not shown …]")
        text = "\n".join(lines)
        stream = _STREAMS[channel]
        self._events.emit_in(self._span, Kind.OUTPUT, text, machine=self._machine, stream=stream)
