"""Clusters of four machines at once, each with a driver of its own, as a CI's jobs are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from attest.support.procfs import descendants
from bench.answered import pss
from bench.runs import Home

__all__ = ["SIZE", "WHO", "Clusters", "check_identities", "start", "started"]

SIZE = 4
"""Machines of each cluster."""

WHO = "hostname; cat /etc/machine-id /sys/class/net/eth0/address; hostname -i"
"""Prints what no two machines of a cluster share, a line each."""

_SCRIPT = f"""
import json, sys

start_all()
who = wait_all(machines, lambda machine: machine.succeed({WHO!r}).splitlines())
print(json.dumps(who), flush=True)
sys.stdin.read()
"""
"""Says who the machines are, and keeps them until its standard input ends."""


@dataclass(frozen=True)
class Clusters:
    """What clusters take, when all their machines have said who they are.

    Attributes:
        seconds: Since the first driver was started, until then.
        end: Seconds until all drivers have ended.
        memory: MiB of all processes: their own pages, and their part of what is shared (PSS).
        descriptors: Of all processes.
        processes: The drivers, and all that they have started.
    """

    seconds: float
    end: float
    memory: float
    descriptors: float
    processes: float


def start(home: Home, image: str, memory: int, count: int) -> Clusters:
    """Start clusters, and look at what they take.

    Args:
        home: Their cache.
        image: Of their machines.
        memory: MiB of each machine.
        count: How many clusters.
    """
    nodes = {f"m{number}": {"image": image, "memory": memory} for number in range(SIZE)}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as ends:
        manifest = Path(directory, "test.json")
        manifest.write_text(json.dumps({"name": "cluster", "nodes": nodes, "script": _SCRIPT}))
        begun = time.monotonic()
        drivers = [
            _driver(home, manifest, Path(directory, str(number)), ends) for number in range(count)
        ]
        who = [_answer(driver) for driver in drivers]
        answered = time.monotonic()
        processes = [pid for driver in drivers for pid in (driver.pid, *started(driver.pid))]
        memory_taken = sum(map(pss, processes))
        descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes)
        ending = time.monotonic()
        for driver in drivers:
            assert driver.stdin is not None
            driver.stdin.close()
        codes = [driver.wait() for driver in drivers]
        ended = time.monotonic()
    if any(codes):
        sys.exit(f"of {count} clusters {sum(map(bool, codes))} failed")
    for each in who:
        check_identities(each)
    ids = {machine[1] for each in who for machine in each}
    if len(ids) != SIZE * count:
        sys.exit(f"{SIZE * count} machines have {len(ids)} machine-ids")
    return Clusters(answered - begun, ended - ending, memory_taken, descriptors, len(processes))


def check_identities(who: Sequence[Sequence[str]]) -> None:
    """Exit if two machines of a cluster have the same of what `WHO` prints."""
    for what, each in zip(("name", "machine-id", "MAC", "address"), zip(*who, strict=True),
                          strict=True):  # fmt: skip
        if len(set(each)) != len(who):
            sys.exit(f"{len(who)} machines have {len(set(each))} different: {what}")


def _driver(home: Home, manifest: Path, out: Path, ends: ExitStack) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "attest", "run", "--accel", "tcg", "-o", str(out),
               str(manifest)]  # fmt: skip
    out.mkdir()
    said = ends.enter_context((out / "said").open("w"))
    driver = ends.enter_context(
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
            env=home.environment,
        )
    )  # fmt: skip
    ends.callback(driver.kill)
    return driver


def _answer(driver: subprocess.Popen[str]) -> list[list[str]]:
    assert driver.stdout is not None
    line = driver.stdout.readline()
    if not line:
        sys.exit(f"a driver has ended with {driver.wait()}")
    answer: list[list[str]] = json.loads(line)
    return answer


def started(driver: int) -> list[int]:
    """All processes below a driver, whose threads have started them."""
    threads = os.listdir(f"/proc/{driver}/task")
    begun = [
        int(word)
        for thread in threads
        for word in Path(f"/proc/{driver}/task/{thread}/children").read_text().split()
    ]
    return begun + [pid for each in begun for pid in descendants(each)]
