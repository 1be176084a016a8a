"""Snapshots with KVM: clones that are themselves, restores that are right."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from attest.cluster.cluster import Cluster
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all
from tests.kvm.conftest import Vmm

_WHO = """
hostname
cat /sys/class/net/eth0/address
ip -4 -o address show dev eth0 | tr -s ' ' | cut -d ' ' -f 4
cat /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -tx1
"""
"""Prints what no two machines share, a line each."""


@pytest.fixture(scope="module")
def cluster(vmm: Vmm) -> Iterator[Cluster]:
    """A machine that has booted, `original`, and what the tests add to it."""
    with vmm.cluster("original", cold=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def original(cluster: Cluster) -> Machine:
    return cluster["original"]


@pytest.mark.short
def test_a_machine_boots_with_kvm(original: Machine) -> None:
    assert "Hypervisor detected: KVM" in original.succeed("dmesg")


@pytest.mark.short
def test_two_clones_are_themselves_and_reach_each_other(original: Machine) -> None:
    original.succeed("echo kept > /tmp/note")
    one, two = original.snapshot("ready").clone(["one", "two"])
    answers = wait_all([original, one, two], lambda each: each.succeed(_WHO).splitlines())
    hostnames, macs, addresses, *random = zip(*answers, strict=True)
    assert hostnames == ("original", "one", "two")
    assert macs == tuple(f"52:54:00:12:01:{number:02x}" for number in (1, 2, 3))
    assert addresses == tuple(f"192.168.1.{number}/24" for number in (1, 2, 3))
    assert [len(set(each)) for each in random] == [3, 3]
    assert one.succeed("cat /tmp/note") == "kept\n"
    one.succeed("ping -c 3 -W 20 two", "ping -c 1 -W 20 original")
    two.succeed("ping -c 3 -W 20 one")


@pytest.mark.short
def test_the_clock_is_right_after_a_restore(original: Machine) -> None:
    snapshot = original.snapshot("then")
    boot = original.succeed("cat /proc/sys/kernel/random/boot_id; sleep 3")
    original.restore(snapshot)
    before = time.time()
    inside = int(original.succeed("date +%s"))
    assert before - 1 <= inside <= time.time() + 1
    assert original.succeed("cat /proc/sys/kernel/random/boot_id") == boot
    original.succeed("sleep 0.1")  # and it runs on


def test_20_restores_in_a_row(original: Machine) -> None:
    original.succeed("echo then > /tmp/state")
    snapshot = original.snapshot("state")
    for _ in range(20):
        original.restore(snapshot)
        assert original.succeed("cat /tmp/state; echo later > /tmp/state") == "then\n"


def test_machines_start_from_the_cache(vmm: Vmm) -> None:
    boots = set()
    for _ in range(2):
        with vmm.cluster("a", "b") as cluster:
            assert cluster["a"].succeed("hostname") == "a\n"
            cluster["b"].succeed("ping -c 3 -W 20 a")
            boots.add(cluster["a"].succeed("cat /proc/sys/kernel/random/boot_id"))
    assert len(boots) == 1
