"""What happened, in order: the one stream that the live view, the reports and the JSON log read.

An `EventLog` numbers and times what happens in a run and hands it to its subscribers. A *span* is
an action with a beginning and an end (a command, a wait, a boot); its two events share the span's
number, and events inside it name it as their parent.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final

import msgspec

from attest.errors import is_success

__all__ = ["Event", "EventLog", "Kind", "Span", "Subscriber", "current_span"]


_LONGEST: Final = 32_768
"""Characters of an error's text that go into the end of a span."""


class Kind(StrEnum):
    """The kinds of events, by what an event is about."""

    RUN = "run"  # span: a whole run
    STAGE = "stage"  # a machine reached a stage of its start (text: the stage)
    CONSOLE = "console"  # one line of a machine's console
    ALARM = "alarm"  # a kernel panic, oops, OOM kill or hung task on a console
    EXIT = "exit"  # a machine's VMM ended
    COMMAND = "command"  # span: a command in a machine
    OUTPUT = "output"  # lines that a command has printed, which its end has too
    WAIT = "wait"  # span: a wait for something in a machine
    CONDITION = "condition"  # span: a polling condition is checked
    COPY = "copy"  # span: files in or out
    ACTION = "action"  # span: anything else done to a machine or a network
    SUBTEST = "subtest"  # span: a subtest of the script
    GROUP = "group"  # span: what the script groups under a message
    HOST = "host"  # what is found out about this host
    IMAGE = "image"  # progress of an image build
    LOG = "log"  # a message of the script
    DEBUG = "debug"  # a message of the script for those who look closely
    WARNING = "warning"  # something the user should know that does not fail the test


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened.

    Attributes:
        time: Seconds since the log began (monotonic).
        kind: What it is about.
        phase: ``"begin"`` or ``"end"`` for the two ends of a span, else empty.
        machine: The machine it concerns, or empty.
        text: One line for people.
        span: The span's number for its begin and end events, else 0.
        parent: The number of the span it happened in, or 0.
        data: What else is known; JSON values only.
    """

    time: float
    kind: Kind
    phase: str = ""
    machine: str = ""
    text: str = ""
    span: int = 0
    parent: int = 0
    data: dict[str, Any] = {}


Subscriber = Callable[[Event], None]

_current_span: ContextVar[int] = ContextVar("attest_span", default=0)


def current_span() -> int:
    """The number of the span in which the caller is, or 0."""
    return _current_span.get()


class Span:
    """An action under way; ``data`` set on it travels with its end event."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.data: dict[str, Any] = {}


class _Subscription(msgspec.Struct, eq=False):
    """A subscriber, what warnings call it, and whether its first failure has been reported."""

    subscriber: Subscriber
    name: str
    failed: bool = False


class EventLog:
    """Takes events from any thread and hands each, in order, to every subscriber.

    A subscriber that raises harms neither who reports an event nor the other subscribers. It misses
    that event and gets the next one; its first failure is an event of its own, a warning.

    Args:
        held: It begins with `release`, and holds back what happens before.

    Attributes:
        started: When it began, in seconds since the epoch.
    """

    def __init__(self, *, held: bool = False) -> None:
        self.started = time.time()
        self._zero = time.monotonic()
        self._held: list[Event] | None = [] if held else None
        self._lock = threading.RLock()
        self._subscriptions: list[_Subscription] = []
        self._numbers = itertools.count(1)

    def subscribe(self, subscriber: Subscriber, name: str = "") -> None:
        """Hand every event from now on to ``subscriber``.

        Args:
            subscriber: Called in the thread in which something happens, such as a console's reader;
                it must be quick, and wait for no machine.
            name: What the warning calls it when it raises; default: the function's name.
        """
        name = name or getattr(subscriber, "__qualname__", repr(subscriber))
        with self._lock:
            self._subscriptions.append(_Subscription(subscriber, name))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Hand no further event to ``subscriber``."""
        with self._lock:
            kept = [each for each in self._subscriptions if each.subscriber != subscriber]
            self._subscriptions = kept

    def disown(self) -> None:
        """Tell nobody any more: this is a fork of the process whose log it is."""
        self._lock = threading.RLock()  # a thread may have had it that is not here
        self._subscriptions = []

    def release(self) -> None:
        """Begin now: hand out what was held back, as of this moment, and then what happens."""
        with self._lock:
            self.started, self._zero = time.time(), time.monotonic()
            held, self._held = self._held or [], None
            for event in held:
                self._hand_out(msgspec.structs.replace(event, time=0.0))

    def now(self) -> float:
        """The time on the log's clock: seconds since it began."""
        return time.monotonic() - self._zero

    def emit(self, kind: Kind, text: str = "", *, machine: str = "", **data: Any) -> None:
        """Record that something happened now, inside the current span."""
        self.emit_in(_current_span.get(), kind, text, machine=machine, **data)

    def emit_in(
        self, parent: int, kind: Kind, text: str = "", *, machine: str = "", **data: Any
    ) -> None:
        """Record that something happened now, inside the span of that number."""
        self._publish(kind=kind, machine=machine, text=text, parent=parent, data=data)

    @contextmanager
    def span(self, kind: Kind, text: str, *, machine: str = "", **data: Any) -> Iterator[Span]:
        """An action that lasts as long as the ``with`` block; an error goes into its end."""
        span = Span(next(self._numbers))
        parent = _current_span.get()
        common: dict[str, Any] = {
            "kind": kind,
            "machine": machine,
            "text": text,
            "span": span.number,
            "parent": parent,
        }
        self._publish(phase="begin", data=data, **common)
        begun = time.monotonic()
        token = _current_span.set(span.number)
        try:
            yield span
        except BaseException as error:
            if not is_success(error):
                span.data["error"] = _cut(str(error)) or type(error).__name__
            raise
        finally:
            _current_span.reset(token)
            span.data["duration"] = round(time.monotonic() - begun, 6)
            self._publish(phase="end", data=data | span.data, **common)

    def _publish(self, **fields: Any) -> None:
        with self._lock:
            event = Event(time=round(self.now(), 6), **fields)
            if self._held is None:
                self._hand_out(event)
            else:
                self._held.append(event)

    def _hand_out(self, event: Event) -> None:
        failures = [self._hand_over(event, each) for each in self._subscriptions]
        for failure in filter(None, failures):
            self.emit(Kind.WARNING, failure)

    def _hand_over(self, event: Event, to: _Subscription) -> str:
        """Hand an event to a subscriber, and say how it failed, if this is the first time."""
        try:
            to.subscriber(event)
        except Exception as error:  # whatever it is: the event did happen, and others wait for it
            if not to.failed:
                to.failed = True
                return f"{to.name} is incomplete: {str(error) or repr(error)}"
        return ""


def _cut(text: str) -> str:
    """What an error says, as its span has it: each span that it leaves has it again."""
    more = len(text) - _LONGEST
    return f"{text[:_LONGEST]}[… {more:,} characters …]" if more > 0 else text
