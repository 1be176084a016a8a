"""What a person sees of a test: a table of machines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

import msgspec

from attest.events import Event, EventLog, Kind, Subscriber
from attest.report.activity import Activities
from attest.report.lines import describe, output_lines, title
from attest.support.nix_sandbox import in_build

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["View", "view"]


class View(msgspec.Struct, eq=False):
    """Decides which events are shown, and as which lines.

    Attributes:
        verbose: The output of commands, and what else mostly goes into the journal only.
        consoles: What machines print on their consoles.
    """

    verbose: bool
    consoles: bool
    _checks: set[int] = set()
    _running: dict[int, Event] = {}
    _told: set[int] = set()

    def lines(self, event: Event) -> list[str]:
        """The lines that show an event, with its time; none when it is not shown."""
        if event.kind is Kind.CONSOLE and not self.consoles:
            return []
        if event.kind is Kind.CONDITION and not self.verbose:
            self._checks.add(event.span)
        elif event.parent in self._checks:  # what is done again and again would hide the rest
            return []
        lines = self._with_output(event) if self.verbose else describe(event, verbose=False)
        return [f"{event.time:8.3f}  {line}" for line in lines]

    def _with_output(self, event: Event) -> list[str]:
        """The lines for an event where output is shown as it comes, and then not at its end."""
        if event.kind is Kind.OUTPUT:
            begun = self._running.get(event.parent)
            heading = [title(begun)] if begun and event.parent not in self._told else []
            self._told.add(event.parent)
            return heading + output_lines(event)
        if event.phase == "begin":
            self._running[event.span] = event
        elif event.phase == "end":
            self._running.pop(event.span, None)
        told = event.span in self._told and event.phase == "end"
        self._told.discard(event.span if told else 0)
        return describe(event, verbose=not told)


@contextmanager
def view(
    events: EventLog,
    doing: Activities,
    *,
    verbose: bool,
    table: bool = True,
    stream: TextIO = sys.stderr,
) -> Iterator[View]:
    """Show the events on ``stream`` until the end of the ``with`` block.

    Args:
        events: What happens.
        doing: What each machine is doing, as those events tell.
        verbose: Show the output of commands, and consoles.
        table: Show what each machine is doing now, on a terminal.
        stream: Where.
    """
    shown = View(verbose, consoles=verbose)
    # Nix gives its builds a terminal, at which nobody looks.
    if table and stream.isatty() and not in_build():
        with _live(events, doing, shown, stream):
            yield shown
        return
    with _subscribed(events, lambda event: _print_plain(event, shown, stream)):
        yield shown


@contextmanager
def _subscribed(events: EventLog, subscriber: Subscriber) -> Iterator[None]:
    events.subscribe(subscriber, "what is shown here")
    try:
        yield
    finally:
        events.unsubscribe(subscriber)


def _print_plain(event: Event, shown: View, stream: TextIO) -> None:
    with suppress(OSError):  # nobody reads any more: the test goes on
        for line in shown.lines(event):
            print(line, file=stream, flush=True)


@contextmanager
def _live(events: EventLog, doing: Activities, shown: View, stream: TextIO) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False, soft_wrap=True)
    live = Live(
        get_renderable=lambda: _table(doing), console=console, refresh_per_second=8, transient=True
    )
    live.start()
    try:
        with _subscribed(events, lambda event: _show(event, shown, console)):
            yield
    finally:
        with suppress(OSError):  # the terminal is gone, and the table with it
            live.stop()


def _show(event: Event, shown: View, console: Console) -> None:
    for line in shown.lines(event):
        failed = event.kind is Kind.ALARM or "error" in event.data
        style = "red" if failed else "yellow" if event.kind is Kind.WARNING else None
        console.print(line, style=style, markup=False)


def _table(doing: Activities) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for each in doing.now():
        style = "green" if each.stage == "ready" else "dim" if each.stage == "off" else "cyan"
        action = f"{each.action}\n| {each.said}" if each.said else each.action
        table.add_row(Text(each.machine, style="bold"), Text(each.stage, style=style), Text(action))
    return table
