"""Polling conditions, and trying again."""

from __future__ import annotations

import threading

import pytest

from attest.errors import ConditionFailed, WaitFailed
from attest.events import Event, EventLog, Kind
from attest.machine.conditions import PollingCondition, watched
from attest.script.retry import retry
from attest.support.concurrency import call_in_thread, wait_all


def _condition(check: object, **options: float | str) -> PollingCondition:
    return PollingCondition(check, EventLog(), **options)  # type: ignore[arg-type]


def test_nothing_is_checked_outside_of_its_block() -> None:
    condition = _condition(lambda: pytest.fail("checked"))
    assert watched(lambda timeout: timeout) is None
    del condition


@pytest.mark.parametrize("holds", [lambda: True, lambda: None])
def test_what_holds_lets_the_wait_go_on(holds: object) -> None:
    with _condition(holds, seconds_interval=100):
        assert 99 < (watched(lambda timeout: timeout) or 0) <= 100


@pytest.mark.parametrize(
    ("check", "reason"),
    [(lambda: False, "it returned False"), (lambda: {}["x"], "'x'")],
)
def test_what_does_not_hold_ends_it_and_says_why(check: object, reason: str) -> None:
    with (
        pytest.raises(ConditionFailed, match=f"the door is shut: {reason}"),
        _condition(check, description="the door is shut"),
    ):
        watched(lambda timeout: pytest.fail("the wait has begun"))


def test_it_is_checked_again_while_a_wait_takes_its_time() -> None:
    checks = iter([True, True, False])

    def wait(timeout: float | None) -> None:
        raise TimeoutError

    with pytest.raises(ConditionFailed), _condition(lambda: next(checks), seconds_interval=0):
        watched(wait)
    assert list(checks) == []


def test_what_a_check_does_itself_checks_nothing() -> None:
    inner = _condition(lambda: watched(lambda timeout: timeout) is None, seconds_interval=0)
    with inner:
        watched(lambda timeout: timeout)


def test_several_hold_at_once_and_in_threads_too() -> None:
    seen = set()

    def check() -> bool:
        seen.add(threading.get_ident())
        return True

    with _condition(check, seconds_interval=0), _condition(check, seconds_interval=0):
        wait_all([1], lambda _: watched(lambda timeout: timeout))
    assert threading.get_ident() not in seen
    assert len(seen) == 1


def test_it_can_be_waited_for() -> None:
    answers = iter([False, False, True])
    _condition(lambda: next(answers)).wait()
    with pytest.raises(WaitFailed, match=r"the sun: not so in 0\.1 s: it returned 0"):
        _condition(lambda: 0, description="the sun").wait(timeout=0.1)


def test_its_name_is_its_docstring_or_its_function() -> None:
    def named() -> None: ...
    def documented() -> None:
        """What it is about."""

    assert _condition(named).description == "named"
    assert _condition(documented).description == "What it is about."


def test_its_checks_are_events() -> None:
    events = EventLog()
    seen: list[Event] = []
    events.subscribe(seen.append)
    with PollingCondition(lambda: True, events, description="x"):
        watched(lambda timeout: timeout)
    assert [(event.kind, event.phase) for event in seen] == [
        (Kind.CONDITION, "begin"),
        (Kind.CONDITION, "end"),
    ]


def test_retry_tells_the_last_call_that_it_is_the_last() -> None:
    calls: list[bool] = []
    with pytest.raises(WaitFailed):
        retry(calls.append, timeout=0.1)  # type: ignore[arg-type]
    assert len(calls) > 2
    assert calls[-1]
    assert not any(calls[:-1])


def test_retry_ends_at_the_first_success_also_at_the_last_moment() -> None:
    calls: list[bool] = []
    retry(lambda last: calls.append(last) or len(calls) == 2)  # type: ignore[func-returns-value]
    assert calls == [False, False]
    retry(lambda last: last, timeout=0)


def test_a_wait_goes_on_at_its_own_pace_while_another_thread_checks() -> None:
    checking, looked, checked, over = (threading.Event() for _ in range(4))
    calls: list[int] = []
    pauses: list[float | None] = []

    def check() -> bool:
        calls.append(1)
        checking.set()
        return checked.wait(60)

    def wait(timeout: float | None) -> None:
        pauses.append(timeout)
        if len(pauses) > 1:
            looked.set()
        if not over.wait(timeout):
            raise TimeoutError

    with _condition(check, seconds_interval=0):
        first = call_in_thread(lambda: watched(lambda _: None), "first")
        assert checking.wait(60)
        second = call_in_thread(lambda: watched(wait), "second")
        assert looked.wait(60)
        over.set()  # what the second waits for comes while the check is under way
        second.result(60)
        assert calls == [1]
        checked.set()
        first.result(60)
    assert all(pause is not None and pause > 0 for pause in pauses)


def test_what_one_thread_has_checked_is_not_due_in_another() -> None:
    calls: list[int] = []
    with _condition(lambda: calls.append(1), seconds_interval=1000):
        wait_all(range(50), lambda _: watched(lambda timeout: timeout))
    assert calls == [1]


def test_several_threads_may_be_in_the_block_of_one_condition() -> None:
    condition = _condition(lambda: True, seconds_interval=1000)
    both_in, one_out = threading.Barrier(2, timeout=60), threading.Event()

    def leave_first() -> float | None:
        with condition:
            both_in.wait()
        one_out.set()
        return watched(lambda timeout: timeout)

    def leave_last() -> float | None:
        with condition, condition:
            both_in.wait()
            assert one_out.wait(60)
            return watched(lambda timeout: timeout)

    not_watching, watching = wait_all([leave_first, leave_last], lambda call: call())
    assert not_watching is None
    assert watching is not None
