"""Events, the journal and the JUnit report: what a test pays for being told about."""

from __future__ import annotations

import json
import tempfile
import xml.etree.ElementTree as xml
from pathlib import Path

from attest.events import EventLog, Kind
from attest.report.journal import journal
from attest.report.junit import junit
from bench.figures import Figure, series

_EVENTS = 10_000
_CASES = 1000
_RUNS = 5


def figures() -> list[Figure]:
    """Of console lines and of subtests."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        return [
            Figure(f"{_EVENTS} events to the journal", series(_RUNS, lambda: _journal(place)),
                   "json.dumps and write", series(_RUNS, lambda: _lines(place))),
            Figure(f"JUnit report, {_CASES} subtests", series(_RUNS, lambda: _junit(place)),
                   "ElementTree", series(_RUNS, lambda: _tree(place))),
        ]  # fmt: skip


def _journal(place: Path) -> None:
    log = EventLog()
    with journal(log, place / "events.jsonl"):
        for number in range(_EVENTS):
            log.emit(Kind.CONSOLE, f"[    0.{number}] a line as kernels have them", machine="m")


def _lines(place: Path) -> None:
    with (place / "lines").open("w") as file:
        for number in range(_EVENTS):
            line = {"time": 0.5, "kind": "console", "machine": "m",
                    "text": f"[    0.{number}] a line as kernels have them"}  # fmt: skip
            file.write(json.dumps(line) + "\n")
            file.flush()


def _junit(place: Path) -> None:
    log = EventLog()
    with junit(log, place / "report.xml"), log.span(Kind.RUN, "test"):
        for number in range(_CASES):
            with log.span(Kind.SUBTEST, f"case {number}"):
                pass


def _tree(place: Path) -> None:
    suite = xml.Element("testsuite")
    for number in range(_CASES):
        xml.SubElement(suite, "testcase", name=f"case {number}", time="0.5")
    xml.ElementTree(suite).write(place / "tree.xml")
