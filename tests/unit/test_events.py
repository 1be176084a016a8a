"""The event stream: order, spans and their parents."""

from __future__ import annotations

import io
import json
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from attest.errors import HostError
from attest.events import Event, EventLog, Kind
from attest.report.activity import Activities
from attest.report.first_answer import first_answer
from attest.report.journal import journal
from attest.report.lines import describe
from attest.report.live import view
from attest.support.text import headline


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


def test_a_log_that_is_held_begins_when_it_is_released() -> None:
    events = EventLog(held=True)
    begun = events.started
    seen: list[Event] = []
    events.subscribe(seen.append)
    with events.span(Kind.COMMAND, "true") as span:
        events.emit(Kind.LOG, "before")
        assert seen == []
        events.release()
    events.emit(Kind.LOG, "after")
    told = [(each.text, each.phase, each.parent) for each in seen]
    assert told == [
        ("true", "begin", 0), ("before", "", span.number), ("true", "end", 0), ("after", "", 0)
    ]  # fmt: skip
    assert [each.time for each in seen[:2]] == [0, 0]
    assert seen[2].data["duration"] > 0
    assert events.started > begun


def test_the_first_answer_is_that_of_the_scripts_own_first_command() -> None:
    events = EventLog()
    with events.span(Kind.RUN, "test"), first_answer(events) as answer:
        threads = [threading.Thread(target=_command, args=[events])]  # a warm step
        for thread in threads:
            thread.start()
            thread.join()
        assert answer.at is None
        assert answer.line(0, "saved") == ""
        with events.span(Kind.SUBTEST, "part"):
            _command(events)
        assert (first := answer.at) is not None
        _command(events)
        assert answer.at == first
        assert answer.line(first - 0.25, "saved") == "saved → first answer 0.25 s"


def _command(events: EventLog) -> None:
    with events.span(Kind.COMMAND, "true"):
        pass


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


def test_the_journal_takes_names_that_are_no_utf_8(tmp_path: Path) -> None:
    events, seen = _recorded()
    with journal(events, tmp_path / "events.jsonl"):
        events.emit(Kind.LOG, "name \udcff", machine="web")
        events.emit(Kind.LOG, "done")
    assert _warnings(seen) == []
    first, second = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(first)["text"] == "name \udcff"
    assert msgspec.json.decode(second, type=Event) == seen[-1]


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
    with view(events, Activities(events, []), verbose=False, stream=stream):
        events.emit(Kind.LOG, "inside")
    events.emit(Kind.LOG, "afterwards")
    assert "inside" in stream.getvalue()
    assert "afterwards" not in stream.getvalue()


def _warnings(seen: list[Event]) -> list[str]:
    return [event.text for event in seen if event.kind is Kind.WARNING]


def test_a_subscriber_that_raises_harms_nobody_and_is_told_of_once() -> None:
    events = EventLog()
    first: list[Event] = []
    last: list[Event] = []
    reached: list[Event] = []

    def fail(event: Event) -> None:
        reached.append(event)
        raise OSError(28, "No space left on device")

    for subscriber in (first.append, fail, last.append):
        events.subscribe(subscriber, "the log")
    with events.span(Kind.COMMAND, "true"):
        events.emit(Kind.LOG, "inside")
    assert _warnings(first) == ["the log is incomplete: [Errno 28] No space left on device"]
    assert [event.kind for event in first] == ["command", "warning", "log", "command"]
    assert first == last == reached


def test_what_ends_the_script_goes_through_a_subscriber() -> None:
    events, seen = _recorded()

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    events.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        events.emit(Kind.LOG, "x")
    assert _warnings(seen) == []


def test_a_journal_on_a_full_disk_is_told_of_once(tmp_path: Path) -> None:
    events, seen = _recorded()
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with journal(events, tmp_path / "events.jsonl"):
        events.emit(Kind.LOG, "one")
        events.emit(Kind.LOG, "two")
    (warning,) = _warnings(seen)
    assert warning.startswith(f"{tmp_path}/events.jsonl is incomplete: ")
    assert "No space left" in warning


def test_a_journal_goes_on_after_a_line_that_did_not_fit(tmp_path: Path) -> None:
    events, seen = _recorded()
    path = tmp_path / "events.jsonl"
    with journal(events, path):
        events.emit(Kind.LOG, "one")
        with _no_file_larger_than(path.stat().st_size + 20):
            events.emit(Kind.LOG, "cut")
        events.emit(Kind.LOG, "two")
    lines = path.read_bytes().splitlines()
    whole = [msgspec.json.decode(line, type=Event) for line in (lines[0], *lines[2:])]
    assert whole == [event for event in seen if event.text in ("one", "two")]
    assert len(_warnings(seen)) == 1


@contextmanager
def _no_file_larger_than(size: int) -> Iterator[None]:
    """A disk with so much room; the signal that tells of it is ignored by Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_journal_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot write .*: No such file"):
        journal(EventLog(), tmp_path / "missing" / "events.jsonl").__enter__()


def test_a_view_whose_terminal_goes_ends_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    # The thread that draws the table may be the first to find out.
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    events, seen = _recorded()
    master, slave = os.openpty()
    stream = os.fdopen(slave, "w")
    with view(events, Activities(events, ["web"]), verbose=False, stream=stream):
        os.close(master)
        events.emit(Kind.LOG, "a line")
    with suppress(OSError):  # what could not be shown is still in it
        stream.close()
    assert seen[0].text == "a line"
    assert len(_warnings(seen)) == 1
