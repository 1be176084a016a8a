"""How long what a test calls waits, and how often it looks where it has to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

__all__ = ["DEFAULT_TIMEOUT", "deadline", "pauses", "tries"]

DEFAULT_TIMEOUT: Final = 900.0
"""Seconds that NixOS's driver waits where a script names no limit."""

_POLL_FIRST: Final = 0.01
_POLL_LAST: Final = 0.25
"""Seconds between the tries of a wait that must try: from the first to the last."""


def deadline(timeout: float | None) -> float | None:
    """The moment, on the monotonic clock, at which ``timeout`` seconds will have passed."""
    return None if timeout is None else time.monotonic() + timeout


def pauses() -> Iterator[float]:
    """Seconds to wait between the tries of a wait that must try, without an end."""
    pause = _POLL_FIRST
    while True:
        yield pause
        pause = min(pause * 1.5, _POLL_LAST)


def tries(timeout: float) -> Iterator[float]:
    """The tries of a wait that must try: the seconds left at each; there is one at least.

    It pauses between them, and ends when the next would come after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    for pause in pauses():
        yield deadline - time.monotonic()
        if time.monotonic() + pause >= deadline:
            return
        time.sleep(pause)
