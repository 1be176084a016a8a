"""What a machine keeps, with QEMU; `tests/kvm` has the same for the other VMMs."""

from __future__ import annotations

from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from tests.lasting import describe_small
from tests.survival import documented, example, observe


@pytest.mark.timeout(600)
def test_a_machine_keeps_what_the_page_says() -> None:
    nodes = {"m": {"image": "debian", "disks": [{"size": 8}], "allow_reboot": True}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        assert observe(cluster["m"]) == documented()
        exec(example(), {"machine": cluster["m"]})


def test_a_root_whose_init_is_the_agent_is_kept_likewise(tmp_path: Path) -> None:
    node = {"image": str(describe_small(tmp_path)), "memory": 96, "allow_reboot": True}
    with Cluster({"nodes": {"m": {**node, "disks": [{"size": 8}]}}}, accelerator="tcg") as cluster:
        seen, said = observe(cluster["m"]), documented()
    for each in seen, said:
        del each["`/tmp`"]  # which Debian empties
    assert seen == said


def test_a_root_has_all_of_its_disk_whatever_its_blocks_and_boots_with_errors(
    tmp_path: Path,
) -> None:
    """Small file systems mostly have blocks of 1 KiB; what has errors does not grow."""
    image = str(describe_small(tmp_path, block_size=1024))
    node = {"image": image, "memory": 96, "root_size": 600}
    with Cluster({"nodes": {"m": node}}, accelerator="tcg") as cluster:
        machine = cluster["m"]
        size = "stat -f -c '%S %b' /"
        before = machine.succeed(size)
        block, blocks = map(int, before.split())
        assert block == 1024
        assert 500 << 20 < block * blocks < 600 << 20
        machine.succeed("echo kept >/root/mark; sync")
        machine.succeed("echo 1 > /sys/fs/ext4/dm-1/trigger_fs_error; sync")
        machine.succeed("sleep 1; echo more >/root/more; sync")  # the journal takes it along
        machine.crash()
        assert machine.succeed(size, "cat /root/mark") == f"{before}kept\n"
        machine.succeed("dmesg | grep 'mounting fs with errors'")


def test_what_is_unplugged_stays_so_until_the_machine_is_started_again(tmp_path: Path) -> None:
    """Also where the reboot is another QEMU."""
    node = {"image": str(describe_small(tmp_path)), "memory": 96}
    with Cluster({"nodes": {"m": node}}, accelerator="tcg", cold=True) as cluster:
        machine = cluster["m"]
        carrier = "cat /sys/class/net/eth0/carrier"
        assert machine.succeed(carrier) == "1\n"
        machine.block()
        for _ in range(2):
            machine.reboot()
            assert machine.succeed(carrier) == "0\n"
        machine.unblock()
        machine.reboot()
        assert machine.succeed(carrier) == "1\n"
        machine.block()
        machine.crash()
        assert machine.succeed(carrier) == "1\n"
        machine.reboot()
        assert machine.succeed(carrier) == "1\n"


def test_a_root_in_memory_begins_anew() -> None:
    nodes = {"m": {"image": "debian", "root": "memory", "memory": 128}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        machine = cluster["m"]
        mark = "/root/mark"
        assert machine.succeed(f"touch {mark}; stat -f -c %T /").strip() == "overlayfs"
        machine.crash()
        machine.fail(f"ls {mark}")
        machine.succeed(f"touch {mark}")
        machine.reboot()
        machine.fail(f"ls {mark}")
        machine.succeed("systemctl daemon-reload")  # wants room in /run
        for place in ("", "/run", "/dev/shm", "/dev"):
            room = machine.fail(f"dd if=/dev/zero of={place}/big bs=1M status=none 2>&1")
            assert "No space left on device" in room
        machine.succeed("rm /run/big /dev/shm/big /dev/big", "systemd-run --wait --quiet true")
        machine.fail("dmesg | grep -i 'out of memory'")
