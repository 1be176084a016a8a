"""What nodes can ask for, with each VMM that has it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attest.cluster.cluster import Cluster
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all
from attest.support.procfs import children
from attest.vmm.registry import BACKENDS
from tests.kvm.conftest import THERE, Vmm

POOL = Path("/proc/sys/vm/nr_hugepages")
FREE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")

_DISK = "/dev/$(cd /sys/block; ls | grep -m 1 ^vd)"


def able(capability: str) -> list[str]:
    """The VMMs that are here and have it."""
    return [name for name in THERE if not getattr(BACKENDS[name].capabilities, capability)]


def cluster(vmm: str, *names: str, **node: Any) -> Cluster:
    return Vmm(vmm).cluster(*names, **node)


def write(machine: Machine, text: str) -> None:
    machine.succeed(f"echo {text} | dd of={_DISK} conv=sync,fsync")


def read(machine: Machine) -> str:
    """From the disk, past the guest's page cache."""
    return machine.succeed(f"dd if={_DISK} bs=512 count=1 iflag=direct | tr -d '\\0'").strip()


@pytest.mark.parametrize("vmm", able("disks"))
def test_disks_are_saved_with_their_machine(vmm: str) -> None:
    with cluster(vmm, "one", disks=[{"size": 8}]) as machines:
        one = machines["one"]
        write(one, "then")
        snapshot = one.snapshot("then")
        write(one, "later")
        (clone,) = snapshot.clone()
        assert (read(clone), read(one)) == ("then", "later")
        write(clone, "of the clone")
        one.restore(snapshot)
        assert read(one) == "then"


@pytest.mark.parametrize("vmm", THERE)
def test_a_machine_is_taken_off_its_network(vmm: str) -> None:
    with cluster(vmm, "one", "two") as machines:
        one, two = machines["one"], machines["two"]
        wait_all([one, two], Machine.connect)
        two.succeed("ping -c 3 -W 20 one")
        one.block()
        two.fail("ping -c 1 -W 2 one")
        one.unblock()
        two.succeed("ping -c 3 -W 20 one")


def test_machines_on_different_vmms_share_a_network() -> None:
    nodes = {f"on-{name}": Vmm(name).nodes("it")["it"] for name in THERE}
    with Cluster({"nodes": nodes}, accelerator="kvm") as machines:
        wait_all(machines.machines.values(), Machine.connect)
        for name, machine in machines.machines.items():
            for other in nodes:
                machine.succeed(f"ping -c 3 -W 20 {other}")
            assert machine.succeed("hostname").strip() == name


@pytest.mark.skipif(not Path("/dev/vhost-vsock").exists(), reason="this host has no vhost-vsock")
def test_qemu_over_the_hosts_vsock() -> None:
    with cluster("qemu", "one", channel="vsock") as machines:
        one = machines["one"]
        assert one.succeed("ls /sys/class/virtio-ports") == ""
        snapshot = one.snapshot("then")
        one.succeed("touch /later")
        clones = snapshot.clone(2)
        for clone in clones:
            clone.fail("test -e /later")
        one.succeed("test -e /later")
        one.restore(snapshot)
        one.fail("test -e /later")


@pytest.fixture
def pages() -> Iterator[None]:
    """Reserved huge pages for three machines of 128 MiB."""
    before = int(POOL.read_text())
    try:
        POOL.write_text(str(before + 192))
    except OSError as error:
        pytest.skip(f"only root can reserve huge pages: {error}")
    assert int(FREE.read_text()) >= 192
    yield
    POOL.write_text(str(before))


@pytest.mark.parametrize("vmm", able("hugepages"))
def test_memory_of_huge_pages_is_saved_and_comes_back(vmm: str, pages: None) -> None:
    free = int(FREE.read_text())
    with cluster(vmm, "one", hugepages=True) as machines:
        one = machines["one"]
        one.succeed("head -c 20000000 /dev/urandom > /random; sha256sum /random > /sum")
        assert int(FREE.read_text()) < free
        snapshot = one.snapshot("then")
        (clone,) = snapshot.clone()
        clone.succeed("sha256sum -c /sum")
        for _ in range(5):
            one.restore(snapshot)
            one.succeed("sha256sum -c /sum")
    assert int(FREE.read_text()) == free


@pytest.mark.skipif("firecracker" not in THERE, reason="ATTEST_FIRECRACKER is not set")
@pytest.mark.skipif(not os.environ.get("ATTEST_JAILER"), reason="ATTEST_JAILER is not set")
def test_a_jailed_firecracker() -> None:
    with cluster("firecracker", "one", jail=True, disks=[{"size": 8}]) as machines:
        one = machines["one"]
        write(one, "then")
        snapshot = one.snapshot("then")
        (clone,) = snapshot.clone()
        assert read(clone) == "then"
        for machine in (one, clone):
            assert machine.pid is not None
            (vmm,) = children(machine.pid)
            assert Path(f"/proc/{vmm}").stat().st_uid >= 0x4000_0000
            assert {"etc", "root", "home"}.isdisjoint(os.listdir(f"/proc/{vmm}/root"))
            status = Path(f"/proc/{vmm}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
    assert "jail" not in subprocess.run(["mount"], capture_output=True, text=True).stdout
