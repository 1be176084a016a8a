"""A machine's console, and what the test says of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from attest.errors import WaitFailed
from attest.events import Kind
from attest.machine.lifecycle import Lifecycle

__all__ = ["ConsoleAccess"]


class ConsoleAccess(Lifecycle):
    """The serial console, and the run's log."""

    def wait_for_console_text(self, regex: str, timeout: float | None = None) -> None:
        """Wait until the console shows a text, searching on from the last match."""
        console = self._alive().console
        with self._events.span(Kind.WAIT, f"wait for console text {regex!r}", machine=self.name):
            if not console.search(re.compile(regex, re.MULTILINE), timeout):
                raise WaitFailed(self.name, f"the console did not show {regex!r}")

    def log(self, msg: str) -> None:
        """Write a message to the run's log."""
        self._events.emit(Kind.LOG, msg, machine=self.name)

    @contextmanager
    def nested(self, msg: str, attrs: Mapping[str, str] = {}) -> Iterator[None]:
        """Group what happens inside under a message."""
        with self._events.span(Kind.GROUP, msg, machine=self.name, **attrs):
            yield

    def send_console(self, chars: str) -> None:
        """Type into the machine's console."""
        self._alive().console.send(chars)

    def console_lines(self, count: int = 20) -> list[str]:
        """The last lines of its console."""
        return self._life.console.last_lines(count) if self._life else []
