"""A machine's console, and what the test says of the machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from attest.events import Kind
from attest.machine.commands import Commands
from attest.machine.conditions import watched
from attest.support.arguments import pattern, text
from attest.support.durations import Duration, limit
from attest.support.polling import deadline

__all__ = ["ConsoleAccess"]


class ConsoleAccess(Commands):
    """The serial console, and the run's log."""

    def wait_for_console_text(self, regex: str, timeout: Duration | None = None) -> None:
        """Wait until the console shows a text, searching on from the last match.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds, or the machine has ended.
        """
        method = f"{self.name}: wait_for_console_text"
        wanted = pattern(regex, f"{method}: regex", re.MULTILINE)
        until = deadline(limit(timeout, f"{method}: timeout"))
        console = self._lifecycle.alive().console

        def search(most: float | None) -> bool:
            ends = [each for each in (deadline(most), until) if each is not None]
            found = console.search(wanted, min(ends) - time.monotonic() if ends else None)
            if not found and not console.ended and (until is None or time.monotonic() < until):
                raise TimeoutError
            return found

        with self._events.span(Kind.WAIT, f"wait for console text {regex!r}", machine=self.name):
            if not watched(search):
                raise self._wait_failed(f"the console did not show {regex!r}")

    def log(self, msg: str) -> None:
        """Write a message to the run's log."""
        self._events.emit(Kind.LOG, msg, machine=self.name)

    @contextmanager
    def nested(self, msg: str, attrs: Mapping[str, str] = {}) -> Iterator[None]:
        """Show what happens inside the ``with`` block as one group under a message."""
        with self._events.span(Kind.GROUP, msg, machine=self.name, **attrs):
            yield

    def send_console(self, chars: str) -> None:
        """Type ``chars`` into the machine's serial console, as its keyboard."""
        text(chars, f"{self.name}: send_console: chars")
        self._lifecycle.alive().keyboard.send(chars)

    def console_interact(self) -> None:
        """Join the user's terminal to the machine's console, until Ctrl-D."""
        from attest.guest.terminal import interact_on_console

        interact_on_console(self._lifecycle.alive().keyboard)

    def shell_interact(self, address: str | None = None) -> None:
        """Open a shell on the user's terminal; it ends with Ctrl-D or ``exit``.

        Args:
            address: Where to open it instead, as socat writes addresses, such as ``"TCP:…"``.
        """
        from attest.guest.terminal import interact, interact_at

        self.connect()
        if address is None:
            interact(self)
        else:
            interact_at(self, address)

    def get_console_log(self) -> str:
        """All that the console has shown since the test began; waits for nothing."""
        instance = self._lifecycle.instance
        return instance.console_text() if instance else ""

    def console_lines(self, count: int = 20) -> list[str]:
        """The last lines that its console has shown, at most ``count``; waits for nothing."""
        return self._lifecycle.console_lines(count)
