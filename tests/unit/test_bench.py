"""What the benchmarks make of what they have measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import compare, record
from bench.profile import ROWS, profile
from bench.runs import Run
from bench.scale import law


def event(time: float, kind: str, text: str = "", **more: Any) -> dict[str, Any]:
    return {"time": time, "kind": kind, "text": text, **more}


def span(number: int, kind: str, begin: float, end: float) -> list[dict[str, Any]]:
    return [
        event(begin, kind, phase="begin", span=number),
        event(end, kind, phase="end", span=number),
    ]


def test_a_profile_counts_each_moment_once() -> None:
    run = Run(
        10.0,
        5.0,
        [
            event(1.0, "stage", "VMM started"),
            event(3.0, "stage", "ready"),
            *span(1, "command", 2.0, 5.0),  # begun while another machine started
            *span(2, "command", 4.0, 6.0),  # at the same time as the first
            *span(3, "wait", 5.5, 7.0),
            event(9.0, "run", "passed"),
        ],
    )
    assert profile(run) == {
        "before the first VMM": 1.0,
        "machines start": 2.0,
        "commands": 3.0,
        "waits": 1.0,
        "copies": 0.0,
        "other actions": 0.0,
        "the script itself": 0.0,
        "after it": 3.0,
    }
    assert tuple(profile(run)) == ROWS


def test_growth_is_a_straight_line() -> None:
    base, slope = law([1, 4, 16], [12.0, 18.0, 42.0])
    assert (base, slope) == (pytest.approx(10), pytest.approx(2))


def test_ratios_that_both_records_have_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    record.write(before, {}, {"cold/warm": 4.0, "gone": 1.0})
    record.write(after, {"wall": [1]}, {"cold/warm": 5.0, "new": 1.0})
    monkeypatch.setattr("sys.argv", ["compare", str(before), str(after)])
    compare.main()
    said = capsys.readouterr().out
    assert "+25 %" in said
    assert "gone" not in said
    assert "new" not in said


def test_the_reference_is_a_record() -> None:
    reference = json.loads(compare.REFERENCE.read_text())
    assert {"host", "ratios"} <= set(reference)
    assert compare.compare(reference, reference)[1].endswith("+0 %")
