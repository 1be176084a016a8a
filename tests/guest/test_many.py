"""Many clones at once, many restores in a row: each is itself, and nothing piles up."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.events import Event, Kind
from attest.machine.instance_states import Stage
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all
from attest.support.procfs import children

_TINY = {"image": "tiny", "memory": 96}

_WHO = """
hostname
cat /sys/class/net/eth0/address
ip -4 -o address show dev eth0 | tr -s ' ' | cut -d ' ' -f 4
cat /etc/machine-id
cat /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -tx1
"""
"""Prints what no two machines share, a line each."""


@pytest.mark.timeout(600)
def test_64_clones_are_64_machines_and_all_go() -> None:
    names = [f"m{number:02}" for number in range(1, 65)]
    on_trial = []
    with Cluster({"nodes": dict.fromkeys(names, _TINY)}, accelerator="tcg") as cluster:
        cluster.events.subscribe(lambda event: on_trial.append(_trials(event)))
        scratch = cluster.out_dir.parent
        cluster.start_all()
        machines = list(cluster.machines.values())
        answers = wait_all(machines, lambda machine: machine.succeed(_WHO).splitlines())
        processes = [pid for machine in machines for pid in _processes(machine)]
        namespace = _namespace(processes[-1])
        wait_all(machines, lambda machine: machine.succeed("ping -c1 -W20 m01"))
    hostnames, macs, addresses, *ids = zip(*answers, strict=True)
    assert list(hostnames) == names
    assert list(macs) == [f"52:54:00:12:01:{number:02x}" for number in range(1, 65)]
    assert list(addresses) == [f"192.168.1.{number}/24" for number in range(1, 65)]
    assert [len(set(each)) for each in ids] == [64, 64, 64]
    assert len(processes) == 128
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    assert namespace not in _namespaces()  # and with it went its taps and bridges
    assert not scratch.exists()
    assert max(itertools.accumulate(on_trial)) <= 8 * (os.cpu_count() or 1)


def _trials(event: Event) -> int:
    """How many more clones have begun to run, and not yet answered."""
    if event.kind is not Kind.STAGE:
        return 0
    return (event.text == Stage.VMM) - (event.text == Stage.AGENT)


def test_no_timer_chip_wakes_the_vmm_of_a_machine_that_does_nothing(tiny: Machine) -> None:
    devices = tiny.send_monitor_command("info qtree")
    assert "apic" in devices
    assert "isa-pit" not in devices


@pytest.fixture
def debian_machine() -> Iterator[Machine]:
    """A fresh Debian machine."""
    with Cluster({"nodes": {"a": {"image": "debian"}}}, accelerator="tcg") as cluster:
        yield cluster["a"]


def test_a_machine_and_its_clones_share_nothing_that_is_to_be_unique(
    debian_machine: Machine,
) -> None:
    debian_machine.succeed("true")  # a shell that waits is in the snapshot
    clones = debian_machine.snapshot("ready").clone(2)
    _assert_unlike([debian_machine, *clones])


def test_clones_from_the_cache_share_nothing_that_is_to_be_unique() -> None:
    nodes = {name: {"image": "debian"} for name in "abc"}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        cluster.start_all()
        _assert_unlike(list(cluster.machines.values()))


def _assert_unlike(machines: list[Machine]) -> None:
    random = "echo $RANDOM $RANDOM $RANDOM; echo $SRANDOM $SRANDOM; mktemp -u"
    before = time.time()
    answers = wait_all(
        machines, lambda machine: machine.succeed(f"date +%s.%N {_WHO} {random}").splitlines()
    )
    after = time.time()
    clocks, *unique = zip(*answers, strict=True)
    assert [each for each in clocks if not before - 1 <= float(each) <= after + 1] == []
    assert len(unique) == 9
    assert [each for each in unique if len(set(each)) != len(machines)] == []


@dataclass(frozen=True)
class _Held:
    """What this process holds."""

    descriptors: int
    threads: int
    processes: int
    scratch_files: int


@pytest.mark.timeout(600)
def test_200_restores_leave_nothing_behind(tiny: Machine) -> None:
    tiny.succeed("echo then > /note")
    snapshot = tiny.snapshot("then")
    counted = {}
    for number in range(1, 201):
        tiny.restore(snapshot)
        assert tiny.succeed("cat /note; echo later > /note") == "then\n"
        if number in (50, 200):
            counted[number] = _held(tiny.out_dir.parent), _resident()
    (first, memory), (last, memory_then) = counted.values()
    grown = {name: count - asdict(first)[name] for name, count in asdict(last).items()}
    assert [name for name, count in grown.items() if count > 1] == []  # one may be about to go
    assert memory_then - memory < 1 << 20


def test_a_command_that_is_killed_for_memory_leaves_the_agent_and_the_others(
    debian_machine: Machine,
) -> None:
    other = debian_machine.spawn("read; echo goes on", stdin=True)
    assert debian_machine.execute("tail /dev/zero", timeout=120)[0] == 128 + 9
    other.write(b"now\n")
    assert other.wait().stdout == b"goes on\n"


def test_300_commands_leave_the_agent_as_it_was(debian_machine: Machine) -> None:
    """A command is written into the memory of a shell, which a moment before was the agent's."""
    name = "read -rd '' name < /proc/$PPID/cmdline; echo $name"
    for _ in range(100):
        names = wait_all(range(3), lambda _: debian_machine.succeed(name))
        assert set(names) == {"/run/attest/attest-agent\n"}


def _held(scratch: Path) -> _Held:
    tasks = list(Path("/proc/self/task").iterdir())
    return _Held(
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=len(tasks),
        processes=sum(len((task / "children").read_text().split()) for task in tasks),
        scratch_files=sum(1 for _ in scratch.rglob("*")),
    )


def _resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _processes(machine: Machine) -> list[int]:
    """Process ids of the VMM, and of what it was started through."""
    assert machine.pid is not None
    return [machine.pid, *children(machine.pid)]


def _namespace(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def _namespaces() -> set[int]:
    """The network namespaces that a process of this host is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(_namespace(int(process.name)))
        except OSError:  # it has just ended
            continue
    return found
