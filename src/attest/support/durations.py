"""Durations that users give: numbers of seconds, `datetime.timedelta`, in documents texts."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attest.errors import UsageError

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["DURATION_PATTERN", "Duration", "limit", "seconds", "written_seconds"]

Duration: TypeAlias = "float | timedelta"
"""A number of seconds, or a `datetime.timedelta`."""

_LONGEST: Final = 10 * 365 * 86_400
"""Seconds; more is a mistake, and less than what clocks and the agent's protocol can hold."""


_PART: Final = (
    r"[0-9]+(\.[0-9]+)? ?"
    r"(ms|msec|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?)"
)

DURATION_PATTERN: Final = f"^{_PART}( ?{_PART})*$"
"""The texts that `written_seconds` takes: units as systemd has them."""

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
"""Seconds in a unit, by its first letter, but for milliseconds."""


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


def written_seconds(value: Any) -> Any:
    """A duration of a document in seconds; what is neither a text nor a timedelta stays as it is.

    Args:
        value: A text such as ``"90s"`` or ``"1h30min"``, a timedelta, or something else.

    Raises:
        ValueError: It is a text without units, or with others; says what would be right.
    """
    if isinstance(value, str):
        if not re.fullmatch(DURATION_PATTERN, value):
            raise ValueError('expected a number of seconds, or a text such as "90s" or "1h30min"')
        parts = re.findall(r"([0-9.]+) ?(ms|[a-z])[a-z]*", value)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return value


def limit(duration: Duration | None, what: str) -> float | None:
    """The same, where None is no limit.

    Raises:
        UsageError: As with `seconds`.
    """
    return None if duration is None else seconds(duration, what)
