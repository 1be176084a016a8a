"""From one machine to many: time, memory, disk and descriptors, cold and from a snapshot.

All machines of a row are nodes of one cluster and start together; then come clusters of four that
start together, each with a driver of its own. What grows is fitted to ``a + b * count`` by least
squares, of all rows; what is fitted is printed below them. Each machine has to be another one than
all others. Before a row, there has to be as much free memory as the rows before have taken.

Usage: ``python -m bench.scale [--runs N] [--only PART]...``, by default 3 of each row; medians are
printed. With 250 machines and 32 clusters, it takes some 8 GiB.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from attest.cluster.cluster import Cluster
from attest.events import EventLog
from attest.support.concurrency import wait_all
from bench import clusters, record
from bench.answered import pss, vmm_processes
from bench.boots import MEMORY
from bench.clusters import WHO, check_identities, started
from bench.runs import home

_COUNTS = {
    ("tiny", "cold"): (1, 4, 16, 64),
    ("tiny", "warm"): (1, 4, 16, 64, 250),
    ("debian", "cold"): (1, 4, 8),
    ("debian", "warm"): (1, 4, 8),
}
_CLUSTERS = (1, 8, 32)

_SPARE = 3072
"""MiB that are left to others: a row that would take more than all others is left out."""


@dataclass(frozen=True)
class Taken:
    """What the machines of a cluster take, when each has answered a first command.

    Attributes:
        seconds: Since they were started, until then.
        end: Seconds until all is gone.
        memory: MiB of all VMMs: their own pages, and their part of what is shared (PSS).
        driver: MiB of the driver, likewise.
        disk: MiB of the run's own files; images and snapshots are shared.
        descriptors: Of the driver.
        threads: Of the driver.
        processes: The VMMs, and all else that the driver has started.
    """

    seconds: float
    end: float
    memory: float
    driver: float
    disk: float
    descriptors: float
    threads: float
    processes: float


Row = TypeVar("Row", Taken, clusters.Clusters)


def start(image: str, count: int, *, cold: bool) -> Taken:
    """Start machines, and look at what they take."""
    nodes = {f"m{n}": {"image": image, "memory": MEMORY[image]} for n in range(count)}
    before = len(os.listdir("/proc/self/fd"))
    with Cluster({"nodes": nodes}, accelerator="tcg", cold=cold, events=EventLog()) as cluster:
        machines = list(cluster.machines.values())
        begun = time.monotonic()
        cluster.start_all()
        who = wait_all(machines, lambda machine: machine.succeed(WHO).splitlines())
        answered = time.monotonic()
        taken = {
            "memory": sum(pss(pid) for machine in machines for pid in vmm_processes(machine)),
            "driver": pss(os.getpid()),
            "disk": sum(map(_disk, _files(machines[0].state_dir.parent))),
            "descriptors": len(os.listdir("/proc/self/fd")) - before,
            "threads": len(os.listdir("/proc/self/task")),
            "processes": len(started(os.getpid())),
        }
        ending = time.monotonic()
    check_identities(who)
    return Taken(answered - begun, time.monotonic() - ending, **taken)


def _files(directory: Path) -> Iterator[Path]:
    return (Path(place, name) for place, _, names in os.walk(directory) for name in names)


def _disk(path: Path) -> float:
    return path.lstat().st_blocks * 512 / (1 << 20)


def law(counts: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """What is there with no machine, and what each adds."""
    slope, base = statistics.linear_regression(counts, values)
    return base, slope


def _print(name: str, what: str, rows: Mapping[int, Row]) -> dict[str, tuple[float, float]]:
    figures = list(asdict(next(iter(rows.values()))))
    print(f"\n{name:22}" + "".join(f"  {figure:>11}" for figure in figures))
    for count, taken in rows.items():
        cells = "".join(f"  {value:11.2f}" for value in asdict(taken).values())
        print(f"{f'{count} {what}':22}{cells}")
    if len(rows) == 1:
        return {}
    laws = {
        figure: law([*rows], [getattr(taken, figure) for taken in rows.values()])
        for figure in figures
    }
    for part, index in (("with none", 0), ("each adds", 1)):
        print(f"{part:22}" + "".join(f"  {laws[figure][index]:11.2f}" for figure in figures))
    return laws


def _median(runs: Sequence[Row]) -> Row:
    figures = asdict(runs[0])
    return type(runs[0])(
        **{name: statistics.median(getattr(run, name) for run in runs) for name in figures}
    )


def _rows(name: str, counts: Sequence[int], runs: int, run: Callable[[int], Row]) -> dict[int, Row]:
    """A row for each count, as long as there is memory for it by what the one before took."""
    rows: dict[int, Row] = {}
    for count in counts:
        if rows:
            last, before = next(reversed(rows.items()))[::-1]
            needed = last.memory / before * count + _SPARE
            if (free := _available()) < needed:
                print(f"{name}, {count}: left out, as it takes {needed:.0f} MiB, and {free:.0f} "
                      "are free")  # fmt: skip
                break
        rows[count] = _median([run(count) for _ in range(runs)])
        print(f"{name}, {count}: {rows[count].seconds:.1f} s", file=sys.stderr)
    return rows


def _available() -> float:
    found = re.search(r"^MemAvailable: +(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    """Print the tables, and write a record."""
    parts = [f"{image}-{way}" for image, way in _COUNTS]
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=[*parts, "clusters"], metavar="PART",
                        help=f"one of {', '.join(parts)}, clusters; several times")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/scale.json"))
    options = parser.parse_args()
    wanted = options.only or [*parts, "clusters"]
    laws: dict[str, Any] = {}
    whole: dict[str, dict[str, dict[int, Taken]]] = {}
    for (image, way), counts in _COUNTS.items():
        if f"{image}-{way}" not in wanted:
            continue
        if way == "warm":
            start(image, 1, cold=False)  # makes the snapshot where there is none
        run = functools.partial(start, image, cold=way == "cold")
        rows = _rows(f"{image}, {way}", counts, options.runs, run)
        whole.setdefault(image, {})[way] = rows
        laws[f"{image}, {way}"] = _print(f"{image}, {way}", "machines", rows)
    if "clusters" in wanted:
        name = f"clusters of {clusters.SIZE}, warm"
        with home() as own:
            of = functools.partial(clusters.start, own, "tiny", MEMORY["tiny"])
            of(1)  # makes the snapshot
            laws[name] = _print(name, "clusters", _rows(name, _CLUSTERS, options.runs, of))
    ratios = {
        f"{count} {image}: cold/warm": ways["cold"][count].seconds / ways["warm"][count].seconds
        for image, ways in whole.items()
        if len(ways) == len(("cold", "warm"))
        for count in ways["cold"]
        if count in ways["warm"]
    }
    record.write(options.out, laws, ratios)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
