"""How long `attest run` takes, as a whole process: cold, for the first time, and warm.

Cold boots every machine. The first run finds no snapshot: it boots one machine of each shape, and
starts all from its snapshot. Warm runs start from what the first has left. Snapshots are in a
cache of the benchmark's own. CPU time counts the driver and all VMMs, and is steadier than the wall
clock where others use the machine, too.

Usage: ``python -m bench.warm [MANIFEST] [--runs N]``, by default of examples/chain and 5 warm runs
(and at most 3 of the others).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attest.cache import cache_dir
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.manifest import load_manifest
from bench import steps
from bench.figures import environment

_MANIFEST = Path(__file__).parents[1] / "examples" / "chain" / "test.toml"
_SLOW_RUNS = 3


@dataclass(frozen=True)
class _Run:
    """Seconds; those of `ready` and `steps` count from the start of the process."""

    wall: float
    cpu: float
    ready: float
    steps: list[steps.Step]


def _run(manifest: Path, home: Path, *options: str) -> _Run:
    with tempfile.TemporaryDirectory() as out:
        timed = Path(out, "steps")
        command = [sys.executable, "-m", "bench.steps", str(timed), "run", "--accel", "tcg",
                   "-o", out, *options, str(manifest)]  # fmt: skip
        begun, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            command, env=environment(home) | {"XDG_CACHE_HOME": str(home)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            assert process.stderr is not None
            said = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - clock
        if process.returncode != 0:
            sys.exit(said.decode(errors="replace"))
        return _Run(
            wall,
            usage.ru_utime + usage.ru_stime,
            _all_ready(Path(out, "events.jsonl"), begun),
            [each._replace(begin=each.begin - clock, end=each.end - clock)
             for each in steps.read(timed)],
        )  # fmt: skip


def _all_ready(journal: Path, begun: float) -> float:
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    started = next(event["data"]["started"] for event in events if event["kind"] == "run")
    ready = [
        event["time"] for event in events if event["kind"] == "stage" and event["text"] == "ready"
    ]
    return float(started - begun + max(ready, default=0.0))


def _build_images(manifest: Path) -> None:
    test = load_manifest(manifest)
    for image in {node.image for node in test.nodes.values()}:
        ImageStore().build(load_recipe(image, relative_to=Path(test.directory)), progress=print)


def _first(manifest: Path, home: Path) -> _Run:
    shutil.rmtree(home / "attest" / "snapshots", ignore_errors=True)
    return _run(manifest, home)


def _summary(name: str, runs: Sequence[_Run]) -> str:
    walls = [run.wall for run in runs]
    figures = (
        statistics.median(walls), min(walls), max(walls),
        statistics.median(run.ready for run in runs), statistics.median(run.cpu for run in runs),
    )  # fmt: skip
    cells = "  ".join(f"{figure:7.2f}" for figure in figures)
    return f"{name:10}  {cells}  ({len(runs)})"


def _breakdown(runs: Sequence[_Run]) -> list[str]:
    """Of each step: when the first begins and the last ends, and how long one takes."""
    names = list(dict.fromkeys(step.name for run in runs for step in _in_order(run)))
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


def _in_order(run: _Run) -> list[steps.Step]:
    return sorted(run.steps, key=lambda step: step.begin)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.warm", description=__doc__)
    parser.add_argument("manifest", nargs="?", type=Path, default=_MANIFEST)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    manifest: Path = arguments.manifest
    slow = range(min(arguments.runs, _SLOW_RUNS))
    _build_images(manifest)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as directory:
        home = Path(directory)
        (home / "attest").mkdir()
        (home / "attest" / "images").symlink_to(cache_dir() / "images")
        cold = [_run(manifest, home, "--cold") for _ in slow]
        first = [_first(manifest, home) for _ in slow]
        warm = [_run(manifest, home) for _ in range(arguments.runs)]
    print(f"{'seconds':10}  {'median':>7}  {'least':>7}  {'most':>7}  {'ready':>7}  {'CPU':>7}")
    for name, runs in (("cold", cold), ("first", first), ("warm", warm)):
        print(_summary(name, runs))
    for name, runs in (("cold/warm", warm), ("cold/first", first)):
        ratio = statistics.median(run.wall for run in cold) / statistics.median(
            run.wall for run in runs
        )
        print(f"{name:10}  {ratio:7.1f}")
    print("", *_breakdown(warm), sep="\n")


if __name__ == "__main__":
    main()
