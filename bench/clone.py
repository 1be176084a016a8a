"""Clones against a cold boot: how soon they answer, and what memory each takes.

All machines of a row are nodes of one cluster and start together from the warm cache, in which
their shape's snapshot is; the ratio is that of one machine's boot to all of them. Then one machine
is saved and brought back by a script's own snapshot.

Usage: ``python -m bench.clone [--runs N]``, by default 3 of each row; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attest.cluster import Cluster
from attest.events import Event, EventLog, Kind
from attest.life import Stage
from attest.machine import Machine
from attest.parallel import wait_all
from attest.processes import children

_SHAPES = {"tiny": (96, (1, 4, 16, 64)), "debian": (512, (1, 4, 8))}
"""Image: MiB of a machine, and how many are cloned at once."""


@dataclass(frozen=True)
class _Start:
    """Machines that started together.

    Attributes:
        running: Seconds until all VMMs ran.
        answered: Seconds until all machines had answered a first command.
        memory: MiB that each VMM takes: its own pages, and its part of what it shares (PSS).
    """

    running: float
    answered: float
    memory: float


@dataclass(frozen=True)
class _Return:
    """A snapshot that a script makes, in seconds.

    Attributes:
        snapshot: The machine is saved, and stands still for most of that time.
        bake: From then on until the first restore is possible; the machine runs.
        restore: From the call until the machine answers a command.
    """

    snapshot: float
    bake: float
    restore: float


def _cluster(image: str, count: int, *, cold: bool = False) -> Cluster:
    memory, _ = _SHAPES[image]
    nodes = {f"m{number}": {"image": image, "memory": memory} for number in range(count)}
    return Cluster({"nodes": nodes}, accelerator="tcg", cold=cold, events=EventLog())


def _start(image: str, count: int, *, cold: bool = False) -> _Start:
    running: list[float] = []

    def watch(event: Event) -> None:
        if event.kind is Kind.STAGE and event.text == Stage.VMM:
            running.append(time.monotonic())

    with _cluster(image, count, cold=cold) as cluster:
        cluster.events.subscribe(watch)
        machines = list(cluster.machines.values())
        begun = time.monotonic()
        cluster.start_all()
        wait_all(machines, lambda machine: machine.succeed("true"))
        answered = time.monotonic() - begun
        memory = statistics.mean(_memory(machine) for machine in machines)
    return _Start(max(running) - begun, answered, memory)


def _memory(machine: Machine) -> float:
    assert machine.pid is not None
    (vmm,) = children(machine.pid)
    for line in Path(f"/proc/{vmm}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError("the kernel tells no PSS")


def _return(image: str) -> _Return:
    with _cluster(image, 1) as cluster:
        (machine,) = cluster.machines.values()
        machine.succeed("true")
        begun = time.monotonic()
        snapshot = machine.snapshot("bench")
        saved = time.monotonic()
        snapshot.saved()
        baked = time.monotonic()
        machine.restore(snapshot)
        machine.succeed("true")
        return _Return(saved - begun, baked - saved, time.monotonic() - baked)


def _row(name: str, starts: Sequence[_Start], cold: float) -> str:
    running, answered, memory = (
        statistics.median(getattr(start, figure) for start in starts)
        for figure in ("running", "answered", "memory")
    )
    ratio = cold / answered
    return f"{name:24}  {running:8.3f}  {answered:8.3f}  {memory:8.1f}  {ratio:11.1f}"


def _print_starts(image: str, runs: range) -> None:
    memory, counts = _SHAPES[image]
    boots = [_start(image, 1, cold=True) for _ in runs]
    cold = statistics.median(boot.answered for boot in boots)
    _start(image, 1)  # makes the snapshot where there is none
    title = f"{image}, {memory} MiB"
    print(f"{title:24}  {'running':>8}  {'answered':>8}  {'PSS, MiB':>8}  {'boot/clones':>11}")
    print(_row("boot", boots, cold))
    for count in counts:
        name = f"{count} {'clones' if count > 1 else 'clone'}"
        print(_row(name, [_start(image, count) for _ in runs], cold))


def _print_returns(image: str, runs: range) -> None:
    returns = [_return(image) for _ in runs]
    print(f"{'':24}  {'seconds':>8}")
    for figure in ("snapshot", "bake", "restore"):
        seconds = statistics.median(getattr(each, figure) for each in returns)
        print(f"{figure:24}  {seconds:8.3f}")


def main() -> None:
    """Print a table for each image."""
    parser = argparse.ArgumentParser(prog="python -m bench.clone", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = range(parser.parse_args().runs)
    print("seconds from the start of all machines")
    for image in _SHAPES:
        print()
        _print_starts(image, runs)
        _print_returns(image, runs)


if __name__ == "__main__":
    main()
