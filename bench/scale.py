"""From one machine to many: time, memory, disk and descriptors, cold and from a snapshot.

All machines of a row are nodes of one cluster and start together. What grows is fitted to
``a + b * machines`` by least squares, of all rows; what is fitted is printed below them.

Usage: ``python -m bench.scale [--runs N]``, by default 3 of each row; medians are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attest.cluster.cluster import Cluster
from attest.events import EventLog
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all
from attest.support.procfs import children
from bench import record
from bench.boots import MEMORY

_COUNTS = {"tiny": (1, 4, 16, 64), "debian": (1, 4, 8)}


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
    """

    seconds: float
    end: float
    memory: float
    driver: float
    disk: float
    descriptors: float
    threads: float


def start(image: str, count: int, *, cold: bool) -> Taken:
    """Start machines, and look at what they take."""
    nodes = {f"m{n}": {"image": image, "memory": MEMORY[image]} for n in range(count)}
    before = len(os.listdir("/proc/self/fd"))
    with Cluster({"nodes": nodes}, accelerator="tcg", cold=cold, events=EventLog()) as cluster:
        machines = list(cluster.machines.values())
        begun = time.monotonic()
        cluster.start_all()
        wait_all(machines, lambda machine: machine.succeed("true"))
        answered = time.monotonic()
        taken = {
            "memory": sum(_memory(_vmm(machine)) for machine in machines),
            "driver": _memory(os.getpid()),
            "disk": sum(map(_disk, _files(machines[0].state_dir.parent))),
            "descriptors": len(os.listdir("/proc/self/fd")) - before,
            "threads": len(os.listdir("/proc/self/task")),
        }
        ending = time.monotonic()
    return Taken(answered - begun, time.monotonic() - ending, **taken)


def _vmm(machine: Machine) -> int:
    assert machine.pid is not None
    (vmm,) = children(machine.pid)
    return vmm


def _memory(process: int) -> float:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError("the kernel tells no PSS")


def _files(directory: Path) -> Iterator[Path]:
    return (Path(place, name) for place, _, names in os.walk(directory) for name in names)


def _disk(path: Path) -> float:
    return path.lstat().st_blocks * 512 / (1 << 20)


def law(counts: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """What is there with no machine, and what each adds."""
    slope, base = statistics.linear_regression(counts, values)
    return base, slope


def _print(name: str, rows: dict[int, Taken]) -> dict[str, tuple[float, float]]:
    figures = list(asdict(next(iter(rows.values()))))
    print(f"\n{name:22}" + "".join(f"  {figure:>11}" for figure in figures))
    for count, taken in rows.items():
        cells = "".join(f"  {value:11.2f}" for value in asdict(taken).values())
        print(f"{f'{count} machines':22}{cells}")
    laws = {
        figure: law([*rows], [getattr(taken, figure) for taken in rows.values()])
        for figure in figures
    }
    for part, index in (("with none", 0), ("each adds", 1)):
        print(f"{part:22}" + "".join(f"  {laws[figure][index]:11.2f}" for figure in figures))
    return laws


def _median(runs: Sequence[Taken]) -> Taken:
    figures = asdict(runs[0])
    return Taken(
        **{name: statistics.median(getattr(run, name) for run in runs) for name in figures}
    )


def main() -> None:
    """Print the tables, and write a record."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/scale.json"))
    options = parser.parse_args()
    laws = {}
    ratios = {}
    for image, counts in _COUNTS.items():
        start(image, 1, cold=False)  # makes the snapshot where there is none
        whole: dict[str, dict[int, Taken]] = {}
        for way in ("cold", "warm"):
            rows = whole[way] = {}
            for count in counts:
                runs = [start(image, count, cold=way == "cold") for _ in range(options.runs)]
                rows[count] = _median(runs)
                print(f"{image}, {way}, {count}: {rows[count].seconds:.1f} s", file=sys.stderr)
            laws[f"{image}, {way}"] = _print(f"{image}, {way}", rows)
        for count in counts:
            cold, warm = whole["cold"][count], whole["warm"][count]
            ratios[f"{count} {image}: cold/warm"] = cold.seconds / warm.seconds
    record.write(options.out, laws, ratios)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
