"""The output of commands under way: when it is told, how it is shown, and what the log has."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attest.events import Event, EventLog, Kind
from attest.guest.channel import Completed
from attest.machine.output import Output
from attest.report.activity import Activities
from attest.report.journal import journal
from attest.report.live import view


class Guest:
    """A command that prints what it is told to, and ends after that."""

    def __init__(self, output: Output, *steps: tuple[int, bytes] | None) -> None:
        self._output = output
        self._steps = list(steps)  # None: nothing comes for a while

    def wait(self, timeout: float | None = None) -> Completed:
        while self._steps:
            if (step := self._steps.pop(0)) is None:
                raise TimeoutError
            self._output.output(*step)
        return Completed(0, b"", b"")


def run(
    events: EventLog, machine: str, command: str, *steps: tuple[int, bytes] | None
) -> dict[str, str]:
    with events.span(Kind.COMMAND, command, machine=machine) as span:
        output = Output(events, machine, command)
        completed = output.await_end(Guest(output, *steps), None)  # type: ignore[arg-type]
        span.data |= output.end(completed)
        return {**span.data}


@pytest.fixture
def told() -> tuple[EventLog, list[Event]]:
    events, found = EventLog(), []
    events.subscribe(lambda event: found.append(event) if event.kind is Kind.OUTPUT else None)
    return events, found


def texts(told: list[Event]) -> list[str]:
    return [event.text for event in told]


def test_only_whole_lines_are_told(told: tuple[EventLog, list[Event]]) -> None:
    events, found = told
    data = run(
        events,
        "web",
        "x",
        (0, b"one\ntw"),
        None,
        (0, b"o"),
        (1, b"err\n"),
        (0, b"\nthr"),
        (0, b"ee"),
    )
    assert [(event.text, event.data["stream"]) for event in found] == [
        ("one", "stdout"), ("err", "stderr"), ("two", "stdout"), ("three", "stdout"),
    ]  # fmt: skip
    assert (data["stdout"], data["stderr"]) == ("one\ntwo\nthree", "err\n")


def test_a_command_that_is_waited_for_in_short_pieces_is_told_as_any(
    told: tuple[EventLog, list[Event]],
) -> None:
    events, found = told
    output = Output(events, "web", "x")
    guest = Guest(output, (0, b"one\n"), None, None, (0, b"two\n"))
    with pytest.raises(TimeoutError):
        output.await_end(guest, 0.25)  # type: ignore[arg-type]
    assert found == []
    output.await_end(guest, 0.25)  # type: ignore[arg-type]
    assert texts(found) == ["one", "two"]


def test_a_command_that_ends_soon_is_told_at_its_end(told: tuple[EventLog, list[Event]]) -> None:
    events, found = told
    assert run(events, "web", "x", (0, b"one\ntwo\n"))["stdout"] == "one\ntwo\n"
    assert found == []


def test_what_is_told_is_plain_and_bounded(told: tuple[EventLog, list[Event]]) -> None:
    events, found = told
    data = run(events, "web", "x", None, (0, b"\x1b[31m" + b"x" * 3_000_000), (0, b"\nlast\n"))
    assert sum(map(len, texts(found))) < 10_000
    assert "\x1b" not in "".join(texts(found))
    assert found[-1].text.endswith("from here on is not shown …]")
    assert "".join(texts(found)).count("is not shown") == 1
    assert len(data["stdout"]) < 20_000
    assert "bytes are left out here" in data["stdout"]
    assert data["stdout"].endswith("x\nlast\n")


def shown(act: Callable[[EventLog], object], *, verbose: bool) -> list[str]:
    events, stream = EventLog(), io.StringIO()
    with view(events, Activities(events, ["web", "db"]), verbose=verbose, stream=stream):
        act(events)
    lines = [line[10:].partition("  [") for line in stream.getvalue().splitlines()]
    return [text + separator + "]" * bool(separator) for text, separator, _ in lines]


def test_output_is_shown_as_it_comes_and_once() -> None:
    def act(events: EventLog) -> None:
        with events.span(Kind.COMMAND, "slow", machine="db") as span:
            output = Output(events, "db", "slow")
            output.await_end(Guest(output, None, (0, b"first\n")), None)  # type: ignore[arg-type]
            run(events, "web", "quick", (0, b"all\n"), (1, b"of it\n"))
            output.output(1, b"second\n")
            span.data |= output.end(None)

    assert shown(act, verbose=True) == [
        "db: $ slow", "db:   first",
        "web: $ quick  []", "web:   all", "web:   of it",
        "db:   second", "db: $ slow  []",
    ]  # fmt: skip
    assert shown(act, verbose=False) == ["web: $ quick  []", "db: $ slow  []"]


def test_the_last_line_is_what_a_machine_is_doing() -> None:
    events = EventLog()
    doing = Activities(events, ["web"])
    with events.span(Kind.COMMAND, "make", machine="web"):
        output = Output(events, "web", "make")
        output.await_end(Guest(output, None, (0, b"cc a.c\ncc b.c\n")), None)  # type: ignore[arg-type]
        assert str(doing.now()[0]).endswith("s  | cc b.c")
        output.note("process 7 (sleep) holds its output open")
        assert str(doing.now()[0]).endswith("| `make`: process 7 (sleep) holds its output open")
    assert doing.now()[0].action == ""


def test_the_log_has_output_once(tmp_path: Path) -> None:
    events = EventLog()
    with journal(events, tmp_path / "log"):
        run(events, "web", "x", None, (0, b"out\n"), (1, b"err\n"))
    begin, end = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (begin["phase"], end["phase"]) == ("begin", "end")
    assert (end["data"]["stdout"], end["data"]["stderr"]) == ("out\n", "err\n")


def test_what_held_a_command_is_told_once(told: tuple[EventLog, list[Event]]) -> None:
    events, _ = told
    warnings: list[str] = []
    events.subscribe(lambda e: warnings.append(e.text) if e.kind is Kind.WARNING else None)
    ended = Completed(124, b"", b"", timed_out=True, held="it is held")
    for noted in (False, True):
        output = Output(events, "web", "x\ny")
        if noted:
            output.note("it is held")
        output.end(ended)
    assert warnings == ["`x …`: it is held"] * 2
