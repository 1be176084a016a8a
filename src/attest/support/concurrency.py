"""Activities the same with several machines at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from attest.errors import AttestError, is_success, message_of
from attest.support.cancellation import Cancelled, CancelScope

__all__ = ["call_in_thread", "wait_all"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def wait_all(items: Iterable[_T], fn: Callable[[_T], _R]) -> list[_R]:
    """Call ``fn`` with every item at once, each in a thread of its own, and wait for all.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: The first failure; the other calls are cancelled. What else had failed by itself
            is attached as ``others``, and as notes, each message once.
        SystemExit: None has failed, and one has called ``sys.exit(0)``.
    """
    items = list(items)
    scope = CancelScope()

    def call(item: _T) -> _R:
        with scope.entered():
            return fn(item)

    futures = [call_in_thread(partial(call, item), "wait_all") for item in items]
    try:
        first = _first_failure(futures)
        if first is None:
            return [future.result() for future in futures]
        scope.cancel()
        wait(futures)
    except BaseException:  # Ctrl-C or the time limit: wait for nobody
        scope.cancel()
        raise
    raise _with_others(first, futures)


def call_in_thread(call: Callable[[], _R], name: str) -> Future[_R]:
    """Call it in a daemon thread; those of a pool would hold up the end of the program.

    Args:
        call: What to call.
        name: The thread's name.
    """
    future: Future[_R] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=copy_context().run, args=[run], name=name, daemon=True).start()
    return future


def _first_failure(futures: list[Future[_R]]) -> BaseException | None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            if (error := future.exception()) and not is_success(error):
                return error
    return None


def _with_others(first: BaseException, futures: list[Future[_R]]) -> BaseException:
    errors = (future.exception() for future in futures)
    others = [each for each in errors if each is not None and each is not first]
    others = [each for each in others if not (isinstance(each, Cancelled) or is_success(each))]
    first.others = others  # type: ignore[attr-defined]
    for message in dict.fromkeys(map(_sentence, others)):
        if message != _sentence(first):
            first.add_note(f"also failed: {message}")
    return first


def _sentence(error: BaseException) -> str:
    """What it says, with its type where that tells something: a `KeyError` says only the key."""
    if isinstance(error, AttestError) or not str(error):
        return message_of(error)
    return f"{type(error).__name__}: {error}"
