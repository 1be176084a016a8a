"""The steps of a warm `attest run`: when each begins and is done, and how long one takes.

Usage: ``python -m bench.warm [MANIFEST] [--runs N]``, by default of examples/chain and 5 runs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.runs import Run, build_images, home

_MANIFEST = Path(__file__).parents[1] / "examples" / "chain" / "test.toml"


def _breakdown(runs: Sequence[Run]) -> list[str]:
    names = list(dict.fromkeys(
        step.name for run in runs for step in sorted(run.steps, key=lambda step: step.begin)
    ))  # fmt: skip
    lines = [f"{'milliseconds since the start':30}  {'begins':>7}  {'done':>7}  {'each':>7}"]
    for name in names:
        of_runs = [[step for step in run.steps if step.name == name] for run in runs]
        of_runs = [each for each in of_runs if each]
        figures = (
            statistics.median(min(step.begin for step in each) for each in of_runs),
            statistics.median(max(step.end for step in each) for each in of_runs),
            statistics.median(step.end - step.begin for each in of_runs for step in each),
        )
        cells = "  ".join(f"{figure * 1000:7.0f}" for figure in figures)
        lines.append(f"{name:30}  {cells}  ({max(len(each) for each in of_runs)})")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.warm", description=__doc__)
    parser.add_argument("manifest", nargs="?", type=Path, default=_MANIFEST)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    build_images(arguments.manifest)
    with home() as own:
        own.attest(arguments.manifest)  # makes the snapshots
        runs = [own.attest(arguments.manifest) for _ in range(arguments.runs)]
    for figure in ("wall", "ready", "cpu"):
        median = statistics.median(getattr(run, figure) for run in runs)
        print(f"{figure:6}  {median:6.2f} s")
    print("", *_breakdown(runs), sep="\n")


if __name__ == "__main__":
    main()
