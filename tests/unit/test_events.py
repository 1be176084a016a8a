"""The event stream: order, spans and their parents."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from attest.events import Event, EventLog, Kind
from attest.report.doing import Doing
from attest.report.journal import journal
from attest.report.lines import describe, headline
from attest.report.live import view


def _recorded() -> tuple[EventLog, list[Event]]:
    events = EventLog()
    seen: list[Event] = []
    events.subscribe(seen.append)
    return events, seen


def test_what_happens_inside_a_span_names_it_as_its_parent() -> None:
    events, seen = _recorded()
    with events.span(Kind.SUBTEST, "outer") as outer, events.span(Kind.COMMAND, "true") as inner:
        events.emit(Kind.LOG, "hello")
    phases = [(event.phase, event.span, event.parent) for event in seen]
    assert phases == [
        ("begin", outer.number, 0),
        ("begin", inner.number, outer.number),
        ("", 0, inner.number),
        ("end", inner.number, outer.number),
        ("end", outer.number, 0),
    ]


def test_an_error_ends_its_span_and_is_told() -> None:
    events, seen = _recorded()
    with pytest.raises(ValueError, match="no"), events.span(Kind.COMMAND, "false"):
        raise ValueError("no")
    assert seen[-1].data["error"] == "no"
    assert "failed" in describe(seen[-1], verbose=False)[0]


def test_the_journal_reads_back_as_the_events(tmp_path: Path) -> None:
    events, seen = _recorded()
    with journal(events, tmp_path / "events.jsonl"):
        with events.span(Kind.COMMAND, "true", machine="web") as span:
            span.data["status"] = 0
        events.emit(Kind.LOG, "done")
    events.emit(Kind.LOG, "after the end")
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Event) for line in lines] == seen[:-1]


def test_a_long_command_is_shown_by_its_first_line() -> None:
    assert headline("\n  true\nfalse\n") == "true …"
    assert len(headline("x" * 500)) < 110


def test_what_a_guest_said_does_not_steer_the_terminal() -> None:
    events, seen = _recorded()
    events.emit(Kind.LOG, "a\x1b]0;title\x07b\x1b[31m")
    with events.span(Kind.COMMAND, "echo \x1b[2J") as span:
        span.data["stdout"] = "\x9b31mred"
    shown = "".join(line for event in seen for line in describe(event, verbose=True))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "ab" in shown


def test_a_view_ends_with_its_block() -> None:
    events, stream = EventLog(), io.StringIO()
    with view(events, Doing(events, []), verbose=False, stream=stream):
        events.emit(Kind.LOG, "inside")
    events.emit(Kind.LOG, "afterwards")
    assert "inside" in stream.getvalue()
    assert "afterwards" not in stream.getvalue()
