"""The global `log` of a script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from attest.errors import TestFailure
from attest.events import EventLog, Kind

__all__ = ["Log"]


class Log:
    """Writes into the run's log.

    Where NixOS's driver takes ``attributes``, only that of the ``machine`` means something here.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def log(self, message: str, attributes: Mapping[str, str] = {}) -> None:
        """Write a message, of the machine that ``attributes`` name where they name one."""
        self._events.emit(Kind.LOG, str(message), machine=attributes.get("machine", ""))

    def debug(self, message: object) -> None:
        """Write a message that only the journal of the run shows."""
        self._events.emit(Kind.DEBUG, str(message))

    def info(self, message: object) -> None:
        """Write a message, as `log` does."""
        self.log(str(message))

    def warning(self, message: object) -> None:
        """Write a message as a warning, which stands out from others."""
        self._events.emit(Kind.WARNING, str(message))

    def error(self, message: object) -> None:
        """Fail the test with a message.

        Raises:
            TestFailure: In any case, with the message.
        """
        raise TestFailure(str(message))

    def log_test_error(self, message: object) -> None:
        """Write a message as a warning; the test goes on."""
        self.warning(message)

    @contextmanager
    def nested(self, message: str, attributes: Mapping[str, str] = {}) -> Iterator[None]:
        """Show what happens inside the ``with`` block as one group under a message."""
        with self._events.span(Kind.GROUP, message, machine=attributes.get("machine", "")):
            yield

    @contextmanager
    def subtest(self, name: str, attributes: Mapping[str, str] = {}) -> Iterator[None]:
        """Report what happens inside the ``with`` block as one part of the test."""
        with self._events.span(Kind.SUBTEST, name, machine=attributes.get("machine", "")):
            yield
