"""What machines have taken when each has answered its first command; the script calls it.

It is a part of the script that `bench.kvm` lets `attest run` run, so that nothing is counted of
what a benchmark does.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from attest.machine.machine import Machine
from attest.support.procfs import descendants
from bench.calls import MARK

__all__ = ["EXITS", "SCRIPT", "answered", "pss", "vmm_processes"]

EXITS = Path("/sys/kernel/debug/kvm")
"""Where the kernel counts virtual machines' exits, for root."""

SCRIPT = """
from bench.answered import answered
start_all()
wait_all(machines, lambda machine: machine.succeed("true"))
answered(machines, {path!r})
"""
"""For ``str.format`` with the path that `answered` writes to."""


def answered(machines: Sequence[Machine], path: str) -> None:
    """Write down when it is, and what all VMMs together and the driver have taken until then."""
    now = time.time()
    os.access(MARK, os.F_OK)
    vmms = [pid for machine in machines for pid in vmm_processes(machine)]
    io = [_io(pid) for pid in vmms]
    taken = {
        "answered": now,
        "faults": sum(_faults(pid) for pid in vmms),
        "read": sum(each["rchar"] for each in io),
        "read from disk": sum(each["read_bytes"] for each in io),
        "driver's read": _io(os.getpid())["rchar"],
        "pss": sum(map(pss, vmms)),
    }
    exits = [number for pid in vmms for number in _exits(pid)]
    if exits:
        taken["exits"] = sum(exits)
    Path(path).write_text(json.dumps(taken))


def vmm_processes(machine: Machine) -> list[int]:
    """The processes that a machine's VMM is."""
    assert machine.pid is not None
    return descendants(machine.pid)


def pss(pid: int) -> float:
    """MiB of a process: its own pages, and its part of those that it shares."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
    assert found is not None, rollup
    return int(found[1]) / 1024


def _exits(pid: int) -> list[int]:
    """Of each virtual machine, which the kernel calls by the thread that has made it."""
    threads = os.listdir(f"/proc/{pid}/task")
    return [int(file.read_text()) for each in threads for file in EXITS.glob(f"{each}-*/exits")]


def _io(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return {name: int(number) for name, number in (line.split(": ") for line in lines)}


def _faults(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) + int(fields[9])  # minflt and majflt of proc(5)
