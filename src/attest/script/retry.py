"""The global `retry` of a script: a function is called until it returns true."""

from __future__ import annotations

import time
from collections.abc import Callable

from attest.errors import UsageError, WaitFailed
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT, pauses

__all__ = ["retry"]


def retry(fn: Callable[[bool], object], timeout: Duration = DEFAULT_TIMEOUT) -> None:
    """Call ``fn(False)`` until it returns true, and after ``timeout`` seconds once ``fn(True)``.

    Raises:
        WaitFailed: The last call did not return true either.
        UsageError: ``fn`` cannot be called, or ``timeout`` is no duration.
    """
    if not callable(fn):
        raise UsageError(f"retry: fn: expected a function, found {fn!r}")
    timeout = seconds(timeout, "retry: timeout")
    deadline = time.monotonic() + timeout
    for pause in pauses():
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if fn(False):
            return
        time.sleep(min(pause, max(left, 0)))
    if not fn(True):
        raise WaitFailed("script", f"the action did not succeed in {timeout:g} s")
