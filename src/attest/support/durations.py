"""Durations that users give: numbers of seconds, or `datetime.timedelta`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeAlias

from attest.errors import UsageError

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Duration", "limit", "seconds"]

Duration: TypeAlias = "float | timedelta"
"""A number of seconds, or a `datetime.timedelta`."""

_LONGEST: Final = 10 * 365 * 86_400
"""Seconds; more is a mistake, and less than what clocks and the agent's protocol can hold."""


def seconds(duration: Duration, what: str) -> float:
    """A duration in seconds.

    Args:
        duration: What the user has given.
        what: What errors call it: where it was given, and the parameter's name.

    Raises:
        UsageError: It is no duration, is less than 0, or is more than ten years.
    """
    if not isinstance(duration, int | float):
        from datetime import timedelta  # most scripts give numbers

        if isinstance(duration, timedelta):
            duration = duration.total_seconds()
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        found = repr(duration)
        raise UsageError(f"{what}: expected a number of seconds or a timedelta, found {found}")
    if math.isnan(duration) or not 0 <= duration <= _LONGEST:
        raise UsageError(
            f"{what}: expected 0 to {_LONGEST} seconds (ten years), found {duration:g}"
        )
    return float(duration)


def limit(duration: Duration | None, what: str) -> float | None:
    """The same, where None is no limit.

    Raises:
        UsageError: As with `seconds`.
    """
    return None if duration is None else seconds(duration, what)
