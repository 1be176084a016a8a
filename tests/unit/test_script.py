"""A script's run: its time limit ends it, whatever it waits for and whatever it catches."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future
from typing import Any
from weakref import WeakSet

import pytest

from attest.errors import MachineError
from attest.script.run import ScriptRun, TimeLimit
from attest.support.concurrency import call_in_thread, wait_all


def _run(text: str, *, timeout: float = 0.2, **names: Any) -> None:
    run = ScriptRun(timeout, again=0.1)
    run.load(text, "<test>")
    run.run(names)


@pytest.mark.parametrize(
    "text",
    [
        "event.wait(60)",
        "while True:\n  try:\n    event.wait(60)\n  except Exception:\n    pass",
        "try:\n  event.wait(60)\nexcept:\n  pass",
        "for _ in range(2):\n  try:\n    event.wait(60)\n  except:\n    pass",
        "wait_all([1, 2], lambda _: event.wait(60))",
    ],
)
def test_the_time_limit_ends_a_script(text: str) -> None:
    event = threading.Event()
    with pytest.raises(TimeLimit) as caught:
        _run(text, event=event, wait_all=wait_all)
    assert not event.is_set()
    event.set()
    assert caught.value.message == "the test took longer than its 0.2 s"


@pytest.mark.parametrize("times", range(20))
def test_a_script_that_is_ended_keeps_no_lock(times: int) -> None:
    condition = threading.Condition(threading.Lock())
    with pytest.raises(TimeLimit):
        _run("while True:\n  with condition: pass", timeout=0.01, condition=condition)
    assert condition.acquire(blocking=False)


def test_a_script_is_not_ended_before_it_has_the_lock_again_that_it_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    condition = threading.Condition(threading.Lock())
    signals = threading.Semaphore(0)
    send = signal.pthread_kill

    def counted(thread: int, number: int) -> None:
        send(thread, number)
        signals.release()

    def hold() -> None:
        with condition:  # when the script waits
            for _ in range(3):
                signals.acquire()

    monkeypatch.setattr(signal, "pthread_kill", counted)
    text = "with condition:\n  begun.append(call_in_thread(hold, 'hold'))\n  condition.wait(0.01)"
    begun: list[Future[None]] = []
    with pytest.raises(TimeLimit):
        _run(text + "\nwhile True: pass", condition=condition, begun=begun, hold=hold,
             call_in_thread=call_in_thread)  # fmt: skip
    begun[0].result(10)


@pytest.mark.parametrize("times", range(5))
def test_a_script_is_not_ended_where_that_would_be_lost(times: int) -> None:
    with pytest.raises(TimeLimit):  # and nothing is told of an exception that was ignored
        _run("class Item: pass\nwhile True: seen.add(Item())", timeout=0.01, seen=WeakSet())


def test_the_reason_shows_where_the_script_was() -> None:
    with pytest.raises(TimeLimit) as caught:
        _run("\nevent.wait(60)", event=threading.Event())
    assert ("<test>", 2) in [
        (entry.frame.code.path, entry.lineno + 1) for entry in caught.traceback
    ]


def test_a_script_that_ends_by_itself_is_not_ended() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    run = ScriptRun(60)
    run.load("seen.append(1)", "<test>")
    seen: list[int] = []
    run.run({"seen": seen})
    run.abort(MachineError("late", "too late"))
    assert seen == [1]
    assert signal.getsignal(signal.SIGUSR1) is before
