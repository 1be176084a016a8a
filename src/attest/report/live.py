"""What a person sees of a test: a table of machines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TextIO

from attest.events import Event, EventLog, Kind, Subscriber
from attest.report.lines import describe, headline

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["view"]

_RUNNING: Final = (Kind.COMMAND, Kind.WAIT, Kind.COPY, Kind.ACTION)


@contextmanager
def view(
    events: EventLog, machines: list[str], *, verbose: bool, stream: TextIO = sys.stderr
) -> Iterator[None]:
    """Show the events on ``stream`` until the end of the ``with`` block."""
    if stream.isatty():
        with _live(events, machines, verbose, stream):
            yield
        return
    with _subscribed(events, lambda event: _print_plain(event, verbose, stream)):
        yield


@contextmanager
def _subscribed(events: EventLog, subscriber: Subscriber) -> Iterator[None]:
    events.subscribe(subscriber)
    try:
        yield
    finally:
        events.unsubscribe(subscriber)


def _print_plain(event: Event, verbose: bool, stream: TextIO) -> None:
    with suppress(OSError):  # nobody reads any more: the test goes on
        for line in describe(event, verbose=verbose):
            print(f"{event.time:8.3f}  {line}", file=stream, flush=True)


@contextmanager
def _live(events: EventLog, machines: list[str], verbose: bool, stream: TextIO) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False, soft_wrap=True)
    status = _Status(events, machines)
    with (
        Live(get_renderable=status.table, console=console, refresh_per_second=8, transient=True),
        _subscribed(events, lambda event: _show(event, verbose, status, console)),
    ):
        yield


def _show(event: Event, verbose: bool, status: _Status, console: Console) -> None:
    status.take(event)
    for line in describe(event, verbose=verbose):
        failed = event.kind is Kind.ALARM or "error" in event.data
        style = "red" if failed else "yellow" if event.kind is Kind.WARNING else None
        console.print(f"{event.time:8.3f}  {line}", style=style, markup=False)


class _Status:
    """What each machine is doing now."""

    def __init__(self, events: EventLog, machines: list[str]) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._stages = dict.fromkeys(machines, "off")
        self._spans: dict[str, dict[int, Event]] = {name: {} for name in machines}

    def take(self, event: Event) -> None:
        """Follow one event."""
        if event.machine not in self._stages:
            return
        with self._lock:
            if event.kind is Kind.STAGE:
                self._stages[event.machine] = event.text
            elif event.kind is Kind.EXIT:
                self._stages[event.machine] = "off"
            elif event.kind in _RUNNING and event.phase == "begin":
                self._spans[event.machine][event.span] = event
            elif event.phase == "end":
                self._spans[event.machine].pop(event.span, None)

    def table(self) -> Table:
        """The table as it is now."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 2))
        with self._lock:
            for name, stage in self._stages.items():
                running = list(self._spans[name].values())
                doing = Text("")
                if running:
                    last = running[-1]
                    more = f" (+{len(running) - 1})" if len(running) > 1 else ""
                    seconds = self._events.now() - last.time
                    doing = Text(f"{headline(last.text, 60)}{more}  {seconds:.1f} s")
                style = "green" if stage == "ready" else "dim" if stage == "off" else "cyan"
                table.add_row(Text(name, style="bold"), Text(stage, style=style), doing)
        return table
