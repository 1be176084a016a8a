"""What each machine is doing now, as its events tell."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import msgspec

from attest.events import Event, EventLog, Kind
from attest.support.text import headline

__all__ = ["Activity", "Activities"]

_SAID: Final = (Kind.OUTPUT, Kind.WARNING)
_RUNNING: Final = (Kind.COMMAND, Kind.WAIT, Kind.COPY, Kind.ACTION)


class Activity(msgspec.Struct, frozen=True):
    """What a machine is doing at one moment.

    Attributes:
        machine: Its name.
        stage: How far it has come; ``"off"`` when it does not run.
        action: What is being done in it, and since how many seconds; empty for nothing.
        said: The last line that has come of that, or an empty string.
    """

    machine: str
    stage: str
    action: str
    said: str = ""

    def __str__(self) -> str:
        doing = f"{self.machine}: {self.stage}, {self.action or 'nothing is being done in it'}"
        return f"{doing}  | {self.said}" if self.said else doing


class Activities:
    """Follows what happens, from now on.

    Args:
        events: What happens.
        machines: The machines' names.
    """

    def __init__(self, events: EventLog, machines: Iterable[str]) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._stages = dict.fromkeys(machines, "off")
        self._spans: dict[str, dict[int, Event]] = {name: {} for name in self._stages}
        self._said: dict[int, str] = {}  # by the span that it was said in
        events.subscribe(self._take)

    def _take(self, event: Event) -> None:
        if event.machine not in self._stages:
            return
        with self._lock:
            if event.kind is Kind.STAGE:
                self._stages[event.machine] = event.text
            elif event.kind is Kind.EXIT:
                self._stages[event.machine] = "off"
            elif event.kind in _RUNNING and event.phase == "begin":
                self._spans[event.machine][event.span] = event
            elif event.kind in _SAID and event.parent in self._spans[event.machine]:
                self._said[event.parent] = event.text.rpartition("\n")[2]
            elif event.phase == "end":
                self._spans[event.machine].pop(event.span, None)
                self._said.pop(event.span, None)

    def now(self) -> list[Activity]:
        """What each machine is doing at this moment, in the order of their names."""
        with self._lock:
            return [
                Activity(name, stage, *self._action(list(self._spans[name].values())))
                for name, stage in self._stages.items()
            ]

    def _action(self, running: list[Event]) -> tuple[str, str]:
        if not running:
            return "", ""
        last = running[-1]
        more = f" (+{len(running) - 1})" if len(running) > 1 else ""
        action = f"{headline(last.text, 60)}{more}  {self._events.now() - last.time:.1f} s"
        return action, headline(self._said.get(last.span, ""))
