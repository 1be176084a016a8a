"""Errors that become a part of other messages."""

from __future__ import annotations

import pytest

from attest.errors import HostError, MachineError, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MachineError("web", "it panicked", hint="look"), "it panicked"),
        (HostError("no KVM", hint="use another host"), "no KVM"),
        (ValueError("not so"), "not so"),
        (TimeoutError(), "TimeoutError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (EOFError(), "EOFError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_reason_is_never_empty(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason
