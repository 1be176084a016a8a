"""Cancelling what several threads do at once.

`wait_all` runs each call in a `CancelScope`; an operation in a machine registers there while it
runs, so that the first failure can end the others at once instead of waiting for their time limits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from attest.errors import AttestError, TestFailure

__all__ = ["Cancelled", "CancelScope", "cancellable"]


class Cancelled(TestFailure):
    """This call was ended because another one, made together with it, had failed."""


class CancelScope:
    """Calls that are cancelled together: `cancel` ends each that is under way in the scope."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._running: dict[object, Callable[[], None]] = {}

    def cancel(self) -> None:
        """End every operation that runs in the scope, and refuse new ones."""
        with self._lock:
            self._cancelled = True
            running = list(self._running.values())
        for end in running:
            with suppress(AttestError):  # it has ended by itself, or its machine has
                end()

    def check(self) -> None:
        """Raise `Cancelled` when the scope has been cancelled."""
        if self._cancelled:
            raise Cancelled("cancelled, as another call made together with it failed")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make this the scope of the current thread's operations."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextmanager
    def _operation(self, end: Callable[[], None]) -> Iterator[None]:
        key = object()
        with self._lock:
            self.check()
            self._running[key] = end
        try:
            yield
        finally:
            with self._lock:
                del self._running[key]
            self.check()


_current: ContextVar[CancelScope | None] = ContextVar("attest_scope", default=None)


@contextmanager
def cancellable(end: Callable[[], None]) -> Iterator[None]:
    """Around an operation: ``end`` ends it, from another thread, when the scope is cancelled.

    Raises:
        Cancelled: The scope was cancelled, before or during the operation.
    """
    scope = _current.get()
    if scope is None:
        yield
        return
    with scope._operation(end):
        yield
