"""Conditions that must hold while a test does other things, re-checked meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, TypeVar

from attest.errors import ConditionFailed, WaitFailed, message_of
from attest.events import EventLog, Kind
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT, tries

__all__ = ["PollingCondition", "watched"]

_AGAIN: Final = 0.05
"""Seconds, at least, until a wait looks again whether another thread's check has ended."""

_T = TypeVar("_T")


class PollingCondition:
    """A condition that holds while a ``with`` block runs; a context manager.

    Any number of threads may be in such a block, and wait in it, at once; one at a time checks.

    Args:
        condition: Returns whether it holds; so does returning None, and raising does not.
        events: Where its checks are reported.
        seconds_interval: Seconds after a check until the next.
        description: What errors and logs call it; default: its docstring or name.
    """

    def __init__(
        self,
        condition: Callable[[], bool | None],
        events: EventLog,
        seconds_interval: float = 2.0,
        description: str | None = None,
    ) -> None:
        self.description = description or condition.__doc__ or condition.__name__
        self._condition = condition
        self._events = events
        self._interval = seconds_interval
        self._due = 0.0
        self._checking = threading.Lock()

    def __enter__(self) -> None:
        _active.set((*_active.get(), self))

    def __exit__(self, *_: object) -> None:
        left = list(_active.get())
        left.remove(self)
        _active.set(tuple(left))

    def wait(self, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Check it again and again until it holds.

        Raises:
            WaitFailed: It does not, after ``timeout`` seconds, or a timedelta.
        """
        timeout = seconds(timeout, f"{self.description}: wait: timeout")
        with self._events.span(Kind.WAIT, f"wait for {self.description}"):
            for _ in tries(timeout):
                failure, cause = self._failure()
                if not failure:
                    return
            what = f"{self.description}: not so in {timeout:g} s: {failure}"
            raise WaitFailed("script", what) from cause

    @property
    def left(self) -> float:
        """Seconds until its next check can be due: that under way may end just now."""
        if self._checking.locked():
            return max(self._interval, _AGAIN)
        return self._until_due()

    def require(self) -> None:
        """Check it when that is due, and no other thread does.

        Raises:
            ConditionFailed: It does not hold.
        """
        if self._until_due() or not self._checking.acquire(blocking=False):
            return
        try:
            # Another thread's check may have ended between the two questions.
            failure, cause = ("", None) if self._until_due() else self._failure()
        finally:
            self._checking.release()
        if failure:
            what = f"polling condition failed: {self.description}: {failure}"
            raise ConditionFailed(what) from cause

    def _until_due(self) -> float:
        return max(self._due - time.monotonic(), 0.0)

    def _failure(self) -> tuple[str, Exception | None]:
        """Check it, and return why it does not hold, and what it raised; empty when it does."""
        token = _active.set(())  # what it does itself checks no condition
        try:
            with self._events.span(Kind.CONDITION, f"check {self.description}") as span:
                cause: Exception | None = None
                try:
                    result = self._condition()
                    failure = "" if result is None or result else f"it returned {result!r}"
                except Exception as error:
                    failure, cause = message_of(error), error
                if failure:
                    span.data["error"] = failure
                return failure, cause
        finally:
            _active.reset(token)
            self._due = time.monotonic() + self._interval


_active: Final[ContextVar[tuple[PollingCondition, ...]]] = ContextVar(
    "attest_conditions", default=()
)


def watched(wait: Callable[[float | None], _T]) -> _T:
    """Wait for something, and check meanwhile what must hold.

    Args:
        wait: Waits so many seconds, or without a limit; raises `TimeoutError` after that.

    Raises:
        ConditionFailed: Something does not hold.
    """
    while True:
        conditions = _active.get()
        for condition in conditions:
            condition.require()
        try:
            return wait(min((condition.left for condition in conditions), default=None))
        except TimeoutError:
            if not conditions:
                raise
