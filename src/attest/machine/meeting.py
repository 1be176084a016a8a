"""Where machines wait for each other that come back to one moment together."""

from __future__ import annotations

import threading

__all__ = ["MeetingFailed", "Meeting"]


class MeetingFailed(Exception):
    """Not all machines were loaded that come back together; the text says why."""


class Meeting:
    """All machines that come back together are loaded before the first of them runs.

    Methods may be called from several threads at once.

    Args:
        size: How many machines there are.
    """

    def __init__(self, size: int) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._missing = size
        self._failure = ""

    def arrive(self, timeout: float) -> None:
        """Say that one is loaded, and wait for the others.

        Args:
            timeout: Seconds to wait for them.

        Raises:
            MeetingFailed: One will not come, or they did not come in time.
        """
        with self._lock:
            self._missing -= 1
            self._changed.notify_all()
            met = self._changed.wait_for(lambda: self._failure or not self._missing, timeout)
            if self._failure:
                raise MeetingFailed(self._failure)
            if not met:
                self._failure = f"{self._missing} others were not loaded in {timeout:g} s"
                self._changed.notify_all()
                raise MeetingFailed(self._failure)

    def call_off(self, machine: str, reason: str) -> None:
        """Say that a machine will not come; nothing happens when all have met, or it was said."""
        with self._lock:
            if self._missing and not self._failure:
                self._failure = f"{machine} did not come back: {reason}"
                self._changed.notify_all()
