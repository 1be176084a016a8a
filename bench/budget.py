"""What a clone takes until its first answer, by parts: time, and blocks that QEMU translates.

An emulated clone's time goes into guest code that runs for the first time in its QEMU, which
translates it. So the count of translated blocks says what a part costs, and QEMU's processor time,
also where others use the machine; times are those of other runs, as to ask QEMU takes time, too.
What the clone is told of who it is, is told in parts, which takes a little longer than at once.

Usage: ``python -m bench.budget [--image IMAGE] [--runs N]``, by default of debian and 5 runs each.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from attest.cluster.cluster import Cluster
from attest.events import EventLog
from attest.guest.agent.channel import AgentChannel
from attest.guest.identity import Identity
from attest.support.procfs import descendants
from attest.vmm.qemu.vmm import Qemu

_MEMORY = 512
"""MiB."""

_FIRST, _SECOND = "the first command", "the second command"


class _Mark(NamedTuple):
    """The end of a part.

    Attributes:
        part: Its name.
        seconds: When it ended, by the host's monotonic clock.
        processor: Seconds of the processor that QEMU had taken by then.
        blocks: How many blocks QEMU had translated by then; 0 where it was not asked.
    """

    part: str
    seconds: float
    processor: float
    blocks: int


class _Budget:
    """The parts of a start, marked as they end.

    Args:
        counts: Ask QEMU how many blocks it has translated, at each mark.
    """

    def __init__(self, *, counts: bool) -> None:
        self.marks: list[_Mark] = []
        self._counts = counts
        self._qemu: Qemu | None = None

    def mark(self, part: str) -> None:
        """A part has ended."""
        seconds, qemu = time.perf_counter(), self._qemu
        processor = _processor(qemu) if qemu else 0.0
        blocks = _translated(qemu) if qemu and self._counts else 0
        self.marks.append(_Mark(part, seconds, processor, blocks))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Mark what the driver does with a machine that starts."""
        start, connect, become = Qemu.__init__, AgentChannel.connect, AgentChannel.identity

        @functools.wraps(start)
        def started(qemu: Qemu, *args: Any, **options: Any) -> None:
            self.mark("before its QEMU starts")
            start(qemu, *args, **options)
            self._qemu = qemu
            self.mark("QEMU started, devices loaded")

        @functools.wraps(connect)
        def connected(channel: AgentChannel, timeout: float) -> None:
            connect(channel, timeout)
            self.mark("the machine runs, its agent answers")

        @functools.wraps(become)
        def became(channel: AgentChannel, identity: Identity) -> None:
            for part, settings in _parts(identity):
                become(channel, settings)
                self.mark(part)

        with (
            patch.object(Qemu, "__init__", started),
            patch.object(AgentChannel, "connect", connected),
            patch.object(AgentChannel, "identity", became),
        ):
            yield


def _processor(qemu: Qemu) -> float:
    tasks = (
        task
        for pid in (qemu.pid, *descendants(qemu.pid))
        for task in Path(f"/proc/{pid}/task").glob("[0-9]*")
    )
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _translated(qemu: Qemu) -> int:
    text = qemu.execute("x-query-jit")["human-readable-text"]
    (line,) = (each for each in text.splitlines() if each.startswith("TB count"))
    return int(line.split()[2])


def _parts(identity: Identity) -> Iterator[tuple[str, Identity]]:
    """An identity as several, one after the other, in the agent's order."""
    yield "  clock", Identity(clock_ns=identity.clock_ns)
    yield "  seed", Identity(seed=identity.seed)
    yield "  host name", Identity(hostname=identity.hostname)
    yield "  machine-id", Identity(machine_id=identity.machine_id)
    yield "  hosts", Identity(hosts=identity.hosts)
    yield "  what its original had", Identity(seed=identity.seed, copy=identity.copy)
    yield "  cards", Identity(interfaces=identity.interfaces)


def _start(image: str, names: tuple[str, ...], *, counts: bool) -> list[_Mark]:
    """The parts of the start of the last of so many machines, the only one that starts."""
    nodes = {name: {"image": image, "memory": _MEMORY} for name in names}
    budget = _Budget(counts=counts)
    with Cluster({"nodes": nodes}, accelerator="tcg", events=EventLog()) as cluster:
        machine = cluster[names[-1]]
        with budget.watched():
            budget.mark("")
            for part in (_FIRST, _SECOND):
                machine.succeed("true")
                budget.mark(part)
    return budget.marks


def _medians(runs: list[list[_Mark]], field: str) -> dict[str, float]:
    spent: dict[str, list[float]] = {}
    for marks in runs:
        for before, mark in pairwise(marks):
            spent.setdefault(mark.part, []).append(getattr(mark, field) - getattr(before, field))
    return {part: statistics.median(each) for part, each in spent.items()}


def _table(timed: list[list[_Mark]], counted: list[list[_Mark]]) -> Iterator[str]:
    columns = [
        {part: each * 1000 for part, each in _medians(timed, "seconds").items()},
        {part: each * 1000 for part, each in _medians(timed, "processor").items()},
        _medians(counted, "blocks"),
    ]
    yield f"{'medians':36}  {'ms':>9}  {'processor':>9}  {'blocks':>9}"
    for part in columns[0]:
        yield f"{part:36}  " + "  ".join(f"{column[part]:9.0f}" for column in columns)
    totals = (sum(column.values()) - column[_SECOND] for column in columns)
    yield f"{'until the first answer':36}  " + "  ".join(f"{total:9.0f}" for total in totals)


def main() -> None:
    """Print the table of the first machine, whose name and cards the snapshot has, and another."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("--image", default="debian", help="default: debian")
    parser.add_argument("--runs", type=int, default=5, help="default: 5")
    arguments = parser.parse_args()
    _start(arguments.image, ("machine",), counts=False)  # makes the snapshot
    for names in (("machine",), ("machine", "other")):
        start = functools.partial(_start, arguments.image, names)
        runs = [(start(counts=False), start(counts=True)) for _ in range(arguments.runs)]
        table = _table([timed for timed, _ in runs], [counted for _, counted in runs])
        print(names[-1], *table, "", sep="\n")


if __name__ == "__main__":
    main()
