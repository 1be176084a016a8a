"""When a script's first command has answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from attest.events import Event, EventLog, Kind, current_span

__all__ = ["FirstAnswer", "first_answer"]


class FirstAnswer:
    """The moment at which the first command has answered, once it has.

    Attributes:
        at: In seconds since the epoch.
    """

    def __init__(self) -> None:
        self.at: float | None = None

    def line(self, since: float, what: str) -> str:
        """How long that took, in a line for people; empty where no command has answered.

        Args:
            since: The moment from which it is counted, in seconds since the epoch.
            what: What happened then.
        """
        return f"{what} → first answer {self.at - since:.2f} s" if self.at is not None else ""


@contextmanager
def first_answer(events: EventLog) -> Iterator[FirstAnswer]:
    """Look for it among the events of the ``with`` block, but for what is no command of a script.

    Such are the warm steps of a machine that is made ready meanwhile.
    """
    found = FirstAnswer()
    spans = {current_span()}

    def take(event: Event) -> None:
        if event.parent not in spans or found.at is not None:
            return
        if event.phase == "begin":
            spans.add(event.span)
        elif event.kind is Kind.COMMAND:
            found.at = time.time()

    events.subscribe(take)
    try:
        yield found
    finally:
        events.unsubscribe(take)
