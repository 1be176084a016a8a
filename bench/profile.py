"""Where a run's time goes, as its journal has it.

What goes on at once is counted once: in the first of the rows that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attest.machine.instance_states import Stage
from bench.runs import Run

__all__ = ["ROWS", "profile"]

_Span = tuple[float, float]

_KINDS: Final = {
    "commands": "command",
    "waits": "wait",
    "copies": "copy",
    "other actions": "action",
}

ROWS: Final = ("before the first VMM", "machines start", *_KINDS, "the script itself", "after it")


def profile(run: Run) -> dict[str, float]:
    """Seconds of each row; their sum is the run's."""
    first = min(event["time"] for event in run.stages(Stage.VMM))
    script_ended = max(event["time"] for event in run.events if event["kind"] != "exit")
    spans = _spans(run)
    ended = max((end for kind in spans.values() for _, end in kind), default=script_ended)
    seconds = {"before the first VMM": first, "machines start": run.ready - first}
    done: list[_Span] = [(0.0, run.ready)]
    for row, kind in _KINDS.items():
        before = _length(done)
        done += spans.get(kind, [])
        seconds[row] = _length(done) - before
    seconds["the script itself"] = ended - _length(done)
    seconds["after it"] = run.wall - ended
    return seconds


def _spans(run: Run) -> dict[str, list[_Span]]:
    begun: dict[int, float] = {}
    spans: dict[str, list[_Span]] = {}
    for event in run.events:
        if event.get("phase") == "begin":
            begun[event["span"]] = event["time"]
        elif event.get("phase") == "end" and event["kind"] in _KINDS.values():
            spans.setdefault(event["kind"], []).append((begun[event["span"]], event["time"]))
    return spans


def _length(spans: Iterable[_Span]) -> float:
    """Seconds that are in at least one of them."""
    total, reached = 0.0, 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
