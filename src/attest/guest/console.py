"""A machine's console: to a file, to the events, and watched for a kernel's troubles."""

from __future__ import annotations

import codecs
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from attest.support.text import plain_text

__all__ = ["Alarm", "Console", "ConsoleEnds"]

_MAX_LINE: Final = 4096
"""Characters; a guest that never ends its line cannot make the driver grow."""

_KEPT_LINES: Final = 2000
"""Lines kept in memory for error messages and `Console.search`; the file has all."""

# Patterns are compiled with the first line: the machine starts meanwhile, and waits for nothing.
# A kernel's own lines have a time stamp, so that a program that prints these words raises nothing.
_KERNEL_LINE: Final = r"^\[ *\d+\.\d+\](?:\[[ TC]*\d+\])? (.*)"


class Alarm(StrEnum):
    """The troubles that a guest's kernel reports on its console."""

    PANIC = "kernel panic"
    OOPS = "kernel oops"
    OOM = "out of memory"
    HUNG = "hung task"


_ALARMS: Final = (
    (Alarm.PANIC, r"Kernel panic - not syncing"),
    (Alarm.OOPS, r"Oops: |BUG: (?!soft lockup)|kernel BUG at|general protection fault"),
    (Alarm.OOM, r"Out of memory: Killed|Memory cgroup out of memory: Killed"),
    (Alarm.HUNG, r"INFO: task .* blocked for more than|BUG: soft lockup"),
)


def _alarm(line: str) -> Alarm | None:
    match = re.match(_KERNEL_LINE, line)
    if match is None:
        return None
    return next((alarm for alarm, words in _ALARMS if re.search(words, match[1])), None)


class ConsoleEnds(Protocol):
    """The driver's ends of a console, whichever VMM made them."""

    @property
    def output(self) -> FileIO:
        """The end from which the guest's output is read."""

    @property
    def keyboard(self) -> FileIO:
        """The end to which keystrokes are written."""

    def close(self) -> None:
        """Close both ends."""


class Console:
    """Reads a console until its end, in a thread of its own.

    Args:
        name: The machine's name.
        pipes: The driver's ends of the console, which are closed at its end.
        log: The file that gets every byte as it came; see `move_log`.
        on_line: Called with each line, without control sequences.
        on_alarm: Called with each alarm and its line.
        on_trouble: Called once with each reason why not everything is where it belongs: the file
            cannot be written, or what is called here raises. The console is read all the same, as
            the guest stands still when nobody does.
    """

    def __init__(
        self,
        name: str,
        pipes: ConsoleEnds,
        log: Path,
        *,
        on_line: Callable[[str], None],
        on_alarm: Callable[[Alarm, str], None],
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.log = log
        self._file = log.open("ab", buffering=0)
        self._writing = threading.Lock()
        self._pipes = pipes
        self._on_line = on_line
        self._on_alarm = on_alarm
        self._on_trouble = on_trouble
        self._in_trouble: set[str] = set()
        self._follower: Callable[[bytes], object] | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._unsearched: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = ""
        self._searched = 0  # characters of it in which something was found
        self._ended = False
        self._thread = threading.Thread(target=self._read, name=f"console {name}", daemon=True)
        self._thread.start()

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines without control sequences, at most ``count``; an unfinished one counts."""
        with self._lock:
            lines = [*self._lines, *([plain_text(self._partial)] if self._partial else [])]
        return lines[-count:]

    @property
    def ended(self) -> bool:
        """Whether the machine has ended, and all that its console showed has been read."""
        return self._ended

    def text(self) -> str:
        """All that it has shown, without control sequences."""
        return plain_text(self.log.read_text(errors="replace").replace("\r", ""))

    def move_log(self, log: Path) -> None:
        """Let another file have all that it has shown, and what comes.

        Raises:
            OSError: It cannot be written.
        """
        with self._writing, log.open("ab", buffering=0) as file:
            file.write(self.log.read_bytes())
            self.log, before = log, self.log
            if not self._file.closed:
                self._file.close()
                self._file = log.open("ab", buffering=0)
        before.unlink()

    def send(self, chars: str | bytes) -> None:
        """Type into the console."""
        self._pipes.keyboard.write(chars.encode() if isinstance(chars, str) else chars)

    @contextmanager
    def followed(self, follower: Callable[[bytes], object]) -> Iterator[None]:
        """Hand over every byte as it comes, control sequences included; to one at a time."""
        self._follower = follower
        try:
            yield
        finally:
            self._follower = None

    def search(self, pattern: re.Pattern[str], timeout: float | None) -> bool:
        """Wait for a text since the last match (or the start); several lines can be matched.

        Returns:
            False when ``timeout`` seconds have passed, or the console has ended, without it.
        """

        def found() -> bool:
            text = "\n".join([*self._unsearched, plain_text(self._partial[self._searched :])])
            return pattern.search(text) is not None

        with self._lock:
            self._changed.wait_for(lambda: found() or self._ended, timeout)
            if not found():
                return False
            self._unsearched.clear()
            self._searched = len(self._partial)
            return True

    def join(self) -> None:
        """Wait until the last byte of an ended machine has been read."""
        self._thread.join()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while data := self._next():
            with self._at_any_rate(f"{self.log} is incomplete"):
                self._write(data)
            if follower := self._follower:
                with self._at_any_rate("what follows the console failed"):
                    follower(data)
            self._take(decoder.decode(data))
        with self._at_any_rate(f"{self.log} is incomplete"), self._writing:
            self._file.close()
        self._pipes.close()
        self._finish_line(self._partial)
        with self._lock:
            self._ended = True
            self._changed.notify_all()

    def _next(self) -> bytes:
        try:
            return self._pipes.output.read(65536) or b""
        except OSError:  # of a socket whose VMM ended with something unread
            return b""

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        with self._writing:
            while rest:
                rest = rest[self._file.write(rest) :]

    @contextmanager
    def _at_any_rate(self, trouble: str) -> Iterator[None]:
        """Go on whatever is raised inside, which is told once as ``trouble``."""
        try:
            yield
        except Exception as error:
            if trouble not in self._in_trouble:
                self._in_trouble.add(trouble)
                with suppress(Exception):  # nobody is left to be told
                    self._on_trouble(f"{trouble}: {str(error) or repr(error)}")

    def _take(self, text: str) -> None:
        *lines, rest = re.split(r"\r*\n", self._partial + text)
        for line in lines:
            self._finish_line(line)
        while len(rest) > _MAX_LINE:
            self._finish_line(rest[:_MAX_LINE])
            rest = rest[_MAX_LINE:]
        with self._lock:
            self._partial = rest
            self._changed.notify_all()

    def _finish_line(self, line: str) -> None:
        with self._lock:
            unsearched = plain_text(line[self._searched : _MAX_LINE]).rstrip()
            line = plain_text(line[:_MAX_LINE]).rstrip()
            self._partial = ""
            self._searched = 0
            if not line:
                return
            self._lines.append(line)
            self._unsearched.append(unsearched)
        with self._at_any_rate("what takes the console's lines failed"):
            self._on_line(line)
        if alarm := _alarm(line):
            with self._at_any_rate("what takes the console's alarms failed"):
                self._on_alarm(alarm, line)
