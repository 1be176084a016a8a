"""The names that a test script may use, and its run."""

from __future__ import annotations

import linecache
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

from attest.cluster import Cluster
from attest.errors import AttestError, TestFailure, WaitFailed
from attest.events import Kind
from attest.machine import Machine
from attest.manifest import global_name

__all__ = ["ScriptRun", "TimeLimit", "namespace"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_SIGNAL: Final = signal.SIGUSR1
"""Ends a script from another thread: it interrupts whatever the script waits for."""


class TimeLimit(TestFailure):
    """The run took longer than its manifest allows."""


def namespace(cluster: Cluster) -> dict[str, Any]:
    """The global names of a test script."""
    events = cluster.events

    @contextmanager
    def subtest(name: str) -> Iterator[None]:
        """Group what happens inside, and report it as one."""
        with events.span(Kind.SUBTEST, name):
            yield

    def log(message: str) -> None:
        """Write a message to the run's log."""
        events.emit(Kind.LOG, message)

    names: dict[str, Any] = {
        "cluster": cluster,
        "machines": list(cluster.machines.values()),
        "start_all": cluster.start_all,
        "subtest": subtest,
        "retry": retry,
        "wait_all": wait_all,
        "log": log,
        "os": os,
        "Machine": Machine,
        "__name__": "__attest__",
    }
    if len(cluster.machines) == 1:
        names["machine"] = names["machines"][0]
    names.update({global_name(name): machine for name, machine in cluster.machines.items()})
    return names


def wait_all(items: Iterable[_T], fn: Callable[[_T], _R]) -> list[_R]:
    """Call ``fn`` with every item at once; see `attest.parallel.wait_all`."""
    from attest.parallel import wait_all  # costs more to import than most scripts need to spend

    return wait_all(items, fn)


def retry(fn: Callable[[bool], bool], timeout: float = 900) -> None:
    """Call ``fn(False)`` once a second until it returns true, and once with ``True`` at the end.

    Raises:
        WaitFailed: The last call did not return true either.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if fn(False):
            return
        time.sleep(1)
    if not fn(True):
        raise WaitFailed("script", f"the action did not succeed in {timeout:g} s")


class _Ended(BaseException):
    """Ends the script from inside; no `except Exception` in it stops that."""


class ScriptRun:
    """Runs one script in the main thread, where another thread can end it.

    Args:
        text: The script.
        filename: Its name in tracebacks.
        timeout: Seconds until it is ended.
    """

    def __init__(self, text: str, filename: str, timeout: float) -> None:
        self._code = compile(text, filename, "exec", dont_inherit=True)
        # Tracebacks show the lines of a script that is in no file, too.
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._running = False
        self._reason: AttestError | None = None

    def abort(self, reason: AttestError) -> None:
        """End the script with ``reason``; the first counts, and none does when it has ended."""
        with self._lock:
            if not self._running or self._reason is not None:
                return
            self._reason = reason
            signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)

    def run(self, names: dict[str, Any]) -> None:
        """Run the script with these global names.

        Raises:
            Exception: Whatever the script raised, or the reason that it was ended for.
        """
        limit = TimeLimit(
            f"the test took longer than its {self._timeout:g} s", hint="`timeout` in the manifest"
        )
        timer = threading.Timer(self._timeout, self.abort, [limit])
        timer.daemon = True
        before = signal.signal(_SIGNAL, self._raise)
        self._running = True
        timer.start()
        where = None
        try:
            exec(self._code, names)
        except _Ended as ended:
            where = ended.__traceback__
        finally:
            with self._lock:  # nobody sends the signal any more
                self._running = False
            timer.cancel()
            signal.signal(_SIGNAL, before)
        if self._reason is not None:
            raise self._reason.with_traceback(where)

    def _raise(self, signum: int, frame: FrameType | None) -> None:
        if self._running:
            raise _Ended(str(self._reason))
