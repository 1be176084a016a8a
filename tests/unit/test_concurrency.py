"""`wait_all`: everything at once, the first failure ends the rest."""

from __future__ import annotations

import threading

import pytest

from attest.errors import AttestError
from attest.support.cancellation import Cancelled, cancellable
from attest.support.concurrency import wait_all


def test_all_calls_run_at_once_and_results_keep_their_order() -> None:
    together = threading.Barrier(20)

    def call(item: int) -> int:
        together.wait(20)
        return item * 2

    assert wait_all(range(20), call) == [2 * item for item in range(20)]


def test_nothing_to_do_is_done() -> None:
    assert wait_all([], str) == []


def test_the_first_failure_cancels_what_still_runs() -> None:
    ended = threading.Event()
    started = threading.Event()

    def call(item: str) -> None:
        if item == "fails":
            started.wait(20)
            raise ValueError(item)
        with cancellable(ended.set):
            started.set()
            assert ended.wait(20), "was not cancelled"

    with pytest.raises(ValueError, match="fails") as caught:
        wait_all(["waits", "fails"], call)
    assert caught.value.others == []  # type: ignore[attr-defined]


def test_other_failures_are_attached() -> None:
    both = threading.Barrier(2)

    def call(item: str) -> None:
        both.wait(20)
        raise ValueError(item)

    with pytest.raises(ValueError, match=r"[ab]") as caught:
        wait_all(["a", "b"], call)
    (other,) = caught.value.others  # type: ignore[attr-defined]
    assert {str(caught.value), str(other)} == {"a", "b"}
    assert f"also failed: ValueError: {other}" in caught.value.__notes__


def test_what_several_failed_of_is_told_once() -> None:
    both = threading.Barrier(2)

    def call(_: str) -> None:
        both.wait(20)
        raise AttestError("web: died", hint="look at its console")

    with pytest.raises(AttestError, match="web: died") as caught:
        wait_all(["a", "b"], call)
    assert not hasattr(caught.value, "__notes__")


def test_a_cancelled_call_starts_nothing_more() -> None:
    failed = threading.Event()
    seen: list[BaseException] = []

    def call(item: str) -> None:
        if item == "fails":
            failed.set()
            raise ValueError(item)
        failed.wait(20)
        while not seen:
            try:
                with cancellable(lambda: None):
                    pass
            except Cancelled as error:
                seen.append(error)

    with pytest.raises(ValueError, match="fails"):
        wait_all(["waits", "fails"], call)
    assert len(seen) == 1
