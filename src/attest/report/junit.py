"""The event stream as JUnit XML: a test case for each top-level subtest, and one for the whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from attest.errors import HostError
from attest.events import Event, EventLog, Kind
from attest.report.lines import describe
from attest.support.extras import how_to_install

__all__ = ["junit"]

_NOT_IN_XML: Final = "[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
"""What XML 1.0 has no way to write; compiled when it is needed, as that takes 5 ms."""


@contextmanager
def junit(events: EventLog, path: Path) -> Iterator[None]:
    """Write a report of what happened in the ``with`` block.

    Its directory is made. When it cannot be written in the end, that is a warning.

    Raises:
        HostError: The package junitparser is not installed, or the directory cannot be made.
    """
    try:
        import junitparser
    except ImportError:
        raise HostError(
            "JUnit reports need the package junitparser", hint=how_to_install("junit")
        ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot make {path.parent} for the report: {error.strerror}") from error
    cases = _Cases()
    events.subscribe(cases.take, str(path))
    try:
        yield
    finally:
        events.unsubscribe(cases.take)
        report = junitparser.JUnitXml()
        report.add_testsuite(_suite(junitparser, cases))
        try:
            report.write(str(path), pretty=True)
        except OSError as error:
            events.emit(Kind.WARNING, f"the report {path} was not written: {error.strerror}")


class _Case(msgspec.Struct):
    """A test case: its name, what was told in it, how long it took, and why it failed."""

    name: str
    lines: list[str] = []
    seconds: float = 0.0
    failure: str | None = None


class _Cases:
    """Sorts events into test cases.

    Attributes:
        ended: The cases that have ended, in order; that of the whole run comes last.
    """

    def __init__(self) -> None:
        self.ended: list[_Case] = []
        self._open: dict[int, _Case] = {}
        self._case_of: dict[int, int] = {}  # each span under way, and the case that it is in

    def take(self, event: Event) -> None:
        """Add the next event to the case that it belongs to."""
        number = self._case_of.get(event.parent, 0)
        if event.phase == "begin":
            if self._begins_case(event, number):
                self._open[event.span] = _Case(event.text)
                number = event.span
            self._case_of[event.span] = number
        for each in {number, *self._whole()}:
            if each in self._open:
                self._open[each].lines += describe(event, verbose=True)
        if event.phase == "end":
            self._case_of.pop(event.span, None)
            ended = self._open.pop(event.span, None)
            if ended is not None:
                ended.seconds = event.data["duration"]
                ended.failure = event.data.get("error")
                self.ended.append(ended)

    def _begins_case(self, event: Event, inside: int) -> bool:
        if event.kind is Kind.RUN:
            return True
        return event.kind is Kind.SUBTEST and inside in (0, *self._whole())

    def _whole(self) -> list[int]:
        """The span of the whole run, which begins first."""
        return list(self._open)[:1]


def _suite(junitparser: Any, cases: _Cases) -> Any:
    suite = junitparser.TestSuite(_text(cases.ended[-1].name) if cases.ended else "")
    entries = []
    for case in cases.ended:
        entry = junitparser.TestCase(_text(case.name), classname=suite.name, time=case.seconds)
        entry.system_out = _text("\n".join(case.lines))
        if case.failure is not None:
            failure = junitparser.Failure(_text(case.failure.partition("\n")[0]))
            failure.text = _text(case.failure)
            entry.result = [failure]
        entries.append(entry)
    suite.add_testcases(entries)  # at once: each addition counts all that are there
    return suite


def _text(text: str) -> str:
    return re.sub(_NOT_IN_XML, "\ufffd", text)
