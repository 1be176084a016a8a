"""A machine's console: to a file, to the events, and watched for a kernel's troubles."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from attest.guest.console_text import ConsoleText
from attest.support.text import plain_text

__all__ = ["Alarm", "Console", "ConsoleEnds"]

_BLOCK: Final = 65_536
"""Bytes that are read at once."""

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
        self._before = self._file.tell()  # bytes of earlier consoles in the same file
        self._is_complete = True
        self._text = ConsoleText(self._read_log)
        self._thread = threading.Thread(target=self._read, name=f"console {name}", daemon=True)
        self._thread.start()

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines without control sequences, at most ``count``; an unfinished one counts."""
        return self._text.last_lines(count)

    @property
    def ended(self) -> bool:
        """Whether the machine has ended, and all that its console showed has been read."""
        return self._text.ended

    def text(self) -> str:
        """All that it has shown, without control sequences."""
        return plain_text(self.log.read_text(errors="replace").replace("\r", ""))

    def move_log(self, log: Path) -> None:
        """Let another file have all that it has shown, and what comes.

        Raises:
            OSError: It cannot be written.
        """
        with self._writing, log.open("ab") as file:
            earlier = file.tell()
            file.write(self.log.read_bytes())
            file.flush()
            self._before += earlier
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
        """Wait for a text since the last match (or the start), see `ConsoleText.search`."""
        return self._text.search(pattern, timeout)

    def join(self) -> None:
        """Wait until the last byte of an ended machine has been read."""
        self._thread.join()

    def _read(self) -> None:
        while data := self._next():
            with self._at_any_rate(f"{self.log} is incomplete"):
                self._write(data)
            if follower := self._follower:
                with self._at_any_rate("what follows the console failed"):
                    follower(data)
            self._tell(self._text.add(data))
        with self._at_any_rate(f"{self.log} is incomplete"), self._writing:
            self._file.close()
        self._pipes.close()
        self._tell(self._text.end())

    def _next(self) -> bytes:
        try:
            return self._pipes.output.read(_BLOCK) or b""
        except OSError:  # of a socket whose VMM ended with something unread
            return b""

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        with self._writing:
            is_complete, self._is_complete = self._is_complete, False
            while rest:
                rest = rest[self._file.write(rest) :]
            self._is_complete = is_complete

    def _read_log(self, start: int) -> Iterator[bytes]:
        """What it has shown from a place on, of which the file may have more than one console's."""
        with self._writing:
            if not self._is_complete:
                raise OSError("something could not be written")
            file, place = self.log.open("rb"), self._before + start  # before another is the log
        with file:
            file.seek(place)
            while data := file.read(_BLOCK):
                yield data

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

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            with self._at_any_rate("what takes the console's lines failed"):
                self._on_line(line)
            if alarm := _alarm(line):
                with self._at_any_rate("what takes the console's alarms failed"):
                    self._on_alarm(alarm, line)
