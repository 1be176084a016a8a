"""The JUnit report of a run."""

from __future__ import annotations

from pathlib import Path

import junitparser
import pytest

from attest.errors import HostError
from attest.events import Event, EventLog, Kind
from attest.report.junit import junit


def _suite(path: Path) -> dict[str, junitparser.TestCase]:
    (suite,) = junitparser.JUnitXml.fromfile(str(path))
    return {case.name: case for case in suite}


def _report(path: Path) -> None:
    events = EventLog()
    with junit(events, path), events.span(Kind.RUN, "the test"):
        with events.span(Kind.SUBTEST, "first"), events.span(Kind.SUBTEST, "inner"):
            events.emit(Kind.LOG, "said in the first")
        events.emit(Kind.CONSOLE, "broken \ufffe\ud800 line", machine="web")
        with events.span(Kind.GROUP, "group"), events.span(Kind.SUBTEST, "second"):
            raise ValueError("wrong\nand more")


def test_each_subtest_at_the_top_is_a_case_and_so_is_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    with pytest.raises(ValueError, match="wrong"):
        _report(path)
    cases = _suite(path)
    assert list(cases) == ["first", "second", "the test"]
    assert "said in the first" in (cases["first"].system_out or "")
    assert "said in the first" not in (cases["second"].system_out or "")
    assert "broken" in (cases["the test"].system_out or "")
    assert cases["first"].result == []
    for name in ("second", "the test"):
        (failure,) = cases[name].result
        assert (failure.message, failure.text) == ("wrong", "wrong\nand more")


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.symlink_to("/dev/full")
    events = EventLog()
    seen: list[Event] = []
    events.subscribe(seen.append)
    with junit(events, path), events.span(Kind.RUN, "the test"):
        pass
    assert seen[-1].kind is Kind.WARNING
    assert "report.xml was not written: No space left on device" in seen[-1].text


def test_the_directory_of_a_report_is_made_before_anything_is_run(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "of-today" / "report.xml"
    with junit(EventLog(), path):
        assert path.parent.is_dir()
    assert path.exists()
    with pytest.raises(HostError, match=r"cannot make .*/report.xml/x .*: Not a directory"):
        junit(EventLog(), path / "x" / "report.xml").__enter__()
