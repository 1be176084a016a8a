"""What a console has shown, as lines: the last ones in memory, and all that a search has not seen.

A search goes on where the last one has found something, however long ago that was: what memory has
no more is read from the console's file.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from attest.support.polling import deadline
from attest.support.text import plain_text

__all__ = ["ConsoleText"]

_MAX_LINE: Final = 4096
"""Bytes; a guest that never ends its line cannot make the driver grow."""

_KEPT_LINES: Final = 2000
"""Lines kept in memory; a text that is searched for lies within as many."""


class _Raw(NamedTuple):
    """A line as it came, and where in all that was shown it is; its end may have a character."""

    data: bytes
    start: int
    end: int


class _Line(NamedTuple):
    """A line, without control sequences, and where it ends in all that was shown."""

    text: str
    end: int


class _Splitter:
    """Cuts what comes into lines.

    Args:
        start: Where it begins in all that was shown.

    Attributes:
        start: Where the unfinished line begins.
        rest: That line.
    """

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.rest = b""

    def add(self, data: bytes) -> list[_Raw]:
        """The lines that end with it; what is too long for one is several."""
        *ended, rest = (self.rest + data).split(b"\n")
        lines = []
        for line in ended:
            *pieces, last = _pieces(line)
            lines += [*map(self._next, pieces), self._next(last, 1)]
        *pieces, self.rest = _pieces(rest)
        return [*lines, *map(self._next, pieces)]

    def _next(self, data: bytes, more: int = 0) -> _Raw:
        start, self.start = self.start, self.start + len(data) + more
        return _Raw(data, start, self.start)


def _pieces(line: bytes) -> Iterator[bytes]:
    """Cut a line so that no piece is too long, and none ends within a character of UTF-8."""
    while len(line) > _MAX_LINE:
        end = _MAX_LINE
        while end > _MAX_LINE - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        yield line[:end]
        line = line[end:]
    yield line


def _shown(line: bytes) -> str:
    return plain_text(line.decode(errors="replace")).rstrip()


class ConsoleText:
    """What one console has shown. Methods can be called from several threads at once.

    Args:
        read: Reads the console's file from a place on, in pieces; raises `OSError`.
    """

    def __init__(self, read: Callable[[int], Iterator[bytes]]) -> None:
        self._read = read
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._splitter = _Splitter()
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._unsearched: deque[_Line] = deque()
        self._kept_from = 0  # where the lines begin that are there as `_unsearched`
        self._searched = 0  # up to here something was found
        self.ended = False
        """Whether nothing comes any more."""

    def add(self, data: bytes) -> list[str]:
        """Take what was shown, and return the lines that end with it, but for empty ones."""
        with self._lock:
            lines = [self._finish(line) for line in self._splitter.add(data)]
            self._changed.notify_all()
        return [line for line in lines if line]

    def end(self) -> list[str]:
        """Note that nothing comes any more, and return the unfinished line, if there is one."""
        with self._lock:
            lines = self.add(b"\n") if self._splitter.rest else []
            self.ended = True
            self._changed.notify_all()
        return lines

    def last_lines(self, count: int) -> list[str]:
        """The last lines, at most ``count``; an unfinished one counts."""
        with self._lock:
            rest = _shown(self._splitter.rest)
            return [*self._last, *([rest] if rest else [])][-count:]

    def search(self, pattern: re.Pattern[str], timeout: float | None) -> bool:
        """Wait for a text behind the line of the last match; several lines can be matched.

        Returns:
            False when ``timeout`` seconds have passed, or nothing comes any more, without it.
        """
        until = deadline(timeout)
        window: deque[_Line] = deque(maxlen=_KEPT_LINES)
        with self._lock:
            seen = self._searched
        while True:
            with self._lock:
                kept_from = self._kept_from
            if seen < kept_from:
                if self._search_file(pattern, window, seen, kept_from):
                    return True
                seen = kept_from
            with self._lock:
                if seen < self._kept_from:  # so much has come meanwhile
                    continue
                window.extend(line for line in self._unsearched if line.end > seen)
                seen = max(seen, self._splitter.start)
                searched = max(self._searched - self._splitter.start, 0)
                if self._found(pattern, window, _shown(self._splitter.rest[searched:])):
                    return True
                left = None if until is None else max(until - time.monotonic(), 0)
                if self.ended or not self._changed.wait(left):
                    return False

    def _finish(self, line: _Raw) -> str:
        text = _shown(line.data)
        if not text:
            return ""
        self._last.append(text)
        if len(self._unsearched) == _KEPT_LINES:
            self._kept_from = self._unsearched.popleft().end
        found = max(self._searched - line.start, 0)
        self._unsearched.append(_Line(_shown(line.data[found:]), line.end))
        return text

    def _search_file(
        self, pattern: re.Pattern[str], window: deque[_Line], start: int, end: int
    ) -> bool:
        """Search in lines that memory has no more; those that come last stay in the window."""
        lines = self._lines_of_file(start, end)
        while block := list(islice(lines, _KEPT_LINES // 2)):
            window.extend(block)
            with self._lock:
                if self._found(pattern, window):
                    return True
        return False

    def _lines_of_file(self, start: int, end: int) -> Iterator[_Line]:
        splitter = _Splitter(start)
        try:
            for data in self._read(start):
                for line in splitter.add(data):
                    if line.end > end:
                        return
                    if text := _shown(line.data):
                        yield _Line(text, line.end)
        except OSError:
            return  # the disk is full, say, which has been told: what memory has is all there is

    def _found(self, pattern: re.Pattern[str], window: deque[_Line], *rest: str) -> bool:
        """Whether it is there; the next search then goes on behind the line in which it ends."""
        text = "\n".join([*(line.text for line in window), *rest])
        if (match := pattern.search(text)) is None:
            return False
        place = 0
        self._searched = self._splitter.start + len(self._splitter.rest)
        for line in window:
            place += len(line.text) + 1
            if match.end() <= place:
                self._searched = line.end
                break
        while self._unsearched and self._unsearched[0].end <= self._searched:
            self._unsearched.popleft()
        if self._searched > self._kept_from:
            self._kept_from = self._searched
        return True
