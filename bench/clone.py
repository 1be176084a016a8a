"""One clone of each image, and one machine that a script saves and brings back."""

from __future__ import annotations

import functools
import tempfile
import time
from dataclasses import dataclass

from attest.cluster.cluster import Cluster
from attest.events import EventLog
from attest.support.paths import cache_dir
from bench.boots import MEMORY, bare_qemu
from bench.figures import Figure, series

_RUNS = 5


@dataclass(frozen=True)
class _Return:
    """A snapshot that a script makes, in seconds.

    Attributes:
        start: From the start of a clone to its first answer.
        snapshot: The machine is saved, and stands still for most of that time.
        bake: From then on until the first restore is possible; the machine runs.
        restore: From the call until the machine answers a command.
    """

    start: float
    snapshot: float
    bake: float
    restore: float


def figures() -> list[Figure]:
    """Of each image."""
    bare = series(10, bare_qemu)
    qemu = "a bare QEMU, started and ended"
    found = []
    for image, memory in MEMORY.items():
        _measure(image)  # makes the snapshot where there is none
        runs = [_measure(image) for _ in range(_RUNS)]
        copied = series(_RUNS, functools.partial(_write, memory))
        written = f"{memory} MiB written"
        found += [
            Figure(f"clone, {image}, to the first answer", [run.start for run in runs], qemu, bare),
            Figure(f"snapshot, {image}, saved", [run.snapshot for run in runs], written, copied),
            Figure(f"snapshot, {image}, baked", [run.bake for run in runs], written, copied),
            Figure(f"snapshot, {image}, restored", [run.restore for run in runs], qemu, bare),
        ]
    return found


def _measure(image: str) -> _Return:
    nodes = {"machine": {"image": image, "memory": MEMORY[image]}}
    with Cluster({"nodes": nodes}, accelerator="tcg", events=EventLog()) as cluster:
        machine = cluster["machine"]
        begun = time.monotonic()
        machine.succeed("true")
        answered = time.monotonic()
        snapshot = machine.snapshot("bench")
        saved = time.monotonic()
        snapshot.saved()
        baked = time.monotonic()
        machine.restore(snapshot)
        machine.succeed("true")
        restored = time.monotonic()
    return _Return(answered - begun, saved - answered, baked - saved, restored - baked)


def _write(memory: int) -> None:
    with tempfile.TemporaryFile(dir=cache_dir()) as file:
        for _ in range(memory):
            file.write(bytes(1 << 20))
