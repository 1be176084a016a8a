"""A machine's boot by its stages, and what a machine takes."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise

from attest.cluster.cluster import Cluster
from attest.events import Event, EventLog, Kind
from attest.machine.instance_states import Stage
from attest.vmm.qemu.binary import find_qemu
from bench.figures import Figure, series

_RUNS = 3
MEMORY = {"tiny": 96, "debian": 512}
"""MiB of a machine, by its image."""


def bare_qemu() -> None:
    """Start a QEMU without a machine, ask it to quit, and wait until it has."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [
            str(find_qemu().path), "-machine", "none", "-nodefaults", "-display", "none",
            "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]):
            theirs.close()
            ours.sendall(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')


def figures() -> list[Figure]:
    """From a cold start to the first answer, with each image."""
    bare = series(10, bare_qemu)
    found = []
    for image in MEMORY:
        boots = [_boot(image) for _ in range(_RUNS)]
        found.append(
            Figure(f"boot, {image}, to the first answer", [each["answered"] for each in boots],
                   "a bare QEMU, started and ended", bare)
        )  # fmt: skip
        for before, after in pairwise([*boots[0]]):
            seconds = [boot[after] - boot[before] for boot in boots]
            whole = [boot["answered"] for boot in boots]
            found.append(Figure(f"boot, {image}: {before} to {after}", seconds, "all of it", whole))
    return found


def _boot(image: str) -> dict[str, float]:
    """When each stage was reached, in seconds."""
    times = {"begin": 0.0}
    log = EventLog()
    nodes = {"machine": {"image": image, "memory": MEMORY[image]}}
    with Cluster({"nodes": nodes}, accelerator="tcg", cold=True, events=log) as cluster:
        begun = time.perf_counter()
        log.subscribe(_stages(times, begun))
        cluster["machine"].succeed("true")
        times["answered"] = time.perf_counter() - begun
    return times


def _stages(times: dict[str, float], begun: float) -> Callable[[Event], None]:
    wanted = {*map(str, Stage)}

    def take(event: Event) -> None:
        if event.kind is Kind.STAGE and event.text in wanted:
            times[event.text] = time.perf_counter() - begun

    return take
