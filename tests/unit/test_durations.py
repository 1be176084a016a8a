"""Durations that users give."""

from __future__ import annotations

from datetime import timedelta

import pytest

from attest.errors import UsageError
from attest.support.durations import limit, seconds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, 0.0),
        (90, 90.0),
        (0.25, 0.25),
        (timedelta(minutes=5), 300.0),
        (timedelta(0, 0, 500), 5e-4),
    ],
)
def test_a_duration_is_a_number_of_seconds_or_a_timedelta(
    given: float | timedelta, expected: float
) -> None:
    found = seconds(given, "timeout")
    assert (found, type(found)) == (expected, float)


@pytest.mark.parametrize(
    "given", ["90", True, [3], -1, float("nan"), float("inf"), 1e30, timedelta(seconds=-1), None]
)
def test_what_is_none_is_refused_by_the_parameters_name(given: object) -> None:
    with pytest.raises(UsageError, match=r"^web: wait_for_file: timeout: expected .*, found "):
        seconds(given, "web: wait_for_file: timeout")  # type: ignore[arg-type]


def test_no_limit_stays_none() -> None:
    assert limit(None, "timeout") is None
    assert limit(timedelta(seconds=2), "timeout") == 2.0
