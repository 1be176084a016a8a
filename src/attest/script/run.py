"""The run of a test script, which can be ended from outside."""

from __future__ import annotations

import linecache
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, NoReturn
from weakref import WeakSet

from attest.errors import AttestError, TestFailure, is_success
from attest.script.assertions import EXPLAIN, explain, with_values

__all__ = ["ScriptRun", "TimeLimit"]

_SIGNAL: Final = signal.SIGUSR1
"""Ends a script from another thread: it interrupts whatever the script waits for."""

_LOCKING: Final = (
    threading.Condition.__enter__.__code__,
    threading.Condition.__exit__.__code__,
    threading.Condition._acquire_restore.__code__,  # type: ignore[attr-defined]
)
"""Where a script is not interrupted: its thread has a lock there that nobody would give back, or is
about to have one that it then gives back.

Not only attest has conditions: each `threading.Event` and each `Future` has one.
"""

_FORGETTING: Final = WeakSet.add.__code__.co_filename
"""Nor is it interrupted here, where a thread that has ended is forgotten: what is raised in the
callback of a weak reference is lost."""

_SOON: Final = 0.02
"""Seconds until a script that was there is interrupted again."""


class TimeLimit(TestFailure):
    """The run took longer than its manifest allows.

    Args:
        seconds: The time limit.
        doing: What each machine was doing then, a line for each.
    """

    def __init__(self, seconds: float, doing: Sequence[str] = ()) -> None:
        super().__init__(
            "\n".join([f"the test took longer than its {seconds:g} s", *doing]),
            hint="`timeout` in the manifest",
        )


class _Ended(BaseException):
    """Ends the script from inside; no `except Exception` in it stops that."""


class ScriptRun:
    """Runs one script in the main thread, where another thread can end it.

    Args:
        timeout: Seconds until it is ended.
        doing: Tells what each machine is doing, a line for each.
        again: Seconds until a script that is to end, and caught that, is told again.

    Attributes:
        filename: The script's name in tracebacks; empty before it is loaded.
    """

    def __init__(
        self, timeout: float, doing: Callable[[], list[str]] = list, *, again: float = 5.0
    ) -> None:
        self.filename = ""
        self._code = compile("", "", "exec")
        self._timeout = timeout
        self._doing = doing
        self._again = again
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._over.set()
        self._spared = False
        self._reason: AttestError | None = None

    def load(self, text: str, filename: str) -> None:
        """Take a script, in the place of the one before.

        Args:
            text: The script.
            filename: Its name in tracebacks.

        Raises:
            SyntaxError: It is no Python.
        """
        self._code = compile(with_values(text, filename), filename, "exec", dont_inherit=True)
        self.filename = filename
        # Tracebacks show the lines of a script that is in no file, too.
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)

    def abort(self, reason: AttestError) -> None:
        """End the script with ``reason``; the first counts, and none does when it has ended."""
        with self._lock:
            if self._over.is_set() or self._reason is not None:
                return
            self._reason = reason
        threading.Thread(target=self._end, name="end the script", daemon=True).start()

    def run(self, names: dict[str, Any]) -> None:
        """Run the script with these global names; ``sys.exit(0)`` ends it well.

        Raises:
            BaseException: Whatever the script raised, or the reason that it was ended for.
        """
        timer = threading.Timer(self._timeout, self._run_out)
        timer.daemon = True
        before = signal.signal(_SIGNAL, self._raise)
        self._reason = None
        self._over.clear()
        timer.start()
        where = None
        try:
            names[EXPLAIN] = explain
            with _importable(names):
                self._execute(names)
        except _Ended as ended:
            where = ended.__traceback__
        except SystemExit as ended:
            if not is_success(ended):
                raise
        finally:
            with self._lock:  # nobody sends the signal any more
                self._over.set()
            timer.cancel()
            signal.signal(_SIGNAL, before)
        if self._reason is not None:
            raise self._reason.with_traceback(where)

    def _execute(self, names: dict[str, Any]) -> None:
        """Run the code; a process that it has forked ends with it, and comes no further."""
        process = os.getpid()
        failure: BaseException | None = None
        try:
            with _ends_in_order(process):
                exec(self._code, names)
        except BaseException as error:
            failure = error
            raise
        finally:
            if os.getpid() != process:
                _leave(failure)

    def _run_out(self) -> None:
        self.abort(TimeLimit(self._timeout, self._doing()))

    def _end(self) -> None:
        """Interrupt the script until it has ended: it may catch everything, and go on."""
        while True:
            with self._lock:
                if self._over.is_set():
                    return
                self._spared = False
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
            again = time.monotonic() + self._again
            while not self._spared and time.monotonic() < again:
                if self._over.wait(_SOON):  # the signal's handler may take no lock to tell
                    return

    def _raise(self, signum: int, frame: FrameType | None) -> None:
        if frame is not None and _is_spared(frame.f_code):
            self._spared = True
            return
        while frame is not None:
            if frame.f_code is self._code:  # else it has ended, and `run` is about to say so
                raise _Ended(str(self._reason))
            frame = frame.f_back


@contextmanager
def _ends_in_order(process: int) -> Iterator[None]:
    """Let `os._exit` of the driver be an error, as it would end a test without a result."""
    leave = os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:  # a fork, which ends so
            leave(status)
        raise TestFailure(
            f"os._exit({status}) would end attest without a result", hint="sys.exit() ends a test"
        )

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


class _Script(ModuleType):
    """The script as a module, so that pickle finds its functions and classes by their names."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(names["__name__"])
        self.__names = names

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__names[name]
        except KeyError:
            raise AttributeError(name) from None


@contextmanager
def _importable(names: dict[str, Any]) -> Iterator[None]:
    """Let a script's forks, such as those of `multiprocessing`, find what it defines."""
    name = names.setdefault("__name__", "__attest__")
    sys.modules[name] = _Script(names)
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def _leave(failure: BaseException | None) -> NoReturn:
    """End a process that the script has forked, as Python ends a program."""
    code = 0
    try:
        if isinstance(failure, SystemExit):
            code = failure.code if isinstance(failure.code, int) else int(failure.code is not None)
            if isinstance(failure.code, str):
                print(failure.code, file=sys.stderr)
        elif failure is not None:
            code = 1
            traceback.print_exception(failure)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code & 0xFF)


_HANDLED: Final = {_SIGNAL, signal.SIGTERM}
"""What ends a script in order; a fork of it has nothing to end in order."""

_masks: Final = threading.local()


def _hold_signals() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)


def _take_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _take_signals_in_child() -> None:
    """Let them end it as they end any program, also those that came before this."""
    for number in _HANDLED:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    _take_signals()


os.register_at_fork(
    before=_hold_signals, after_in_parent=_take_signals, after_in_child=_take_signals_in_child
)


def _is_spared(code: CodeType) -> bool:
    return code in _LOCKING or code.co_filename == _FORGETTING
