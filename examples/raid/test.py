FIRST, SECOND, NEW = (f"/dev/disk/by-id/virtio-disk{number}" for number in range(3))


def pull_out(disk: str) -> None:
    """Take a disk away from its driver, which is as if it had been pulled out."""
    machine.succeed(
        f"device=$(readlink -f /sys/block/$(basename $(readlink -f {disk}))/device)"
        " && basename $device > $device/driver/unbind"
    )


def wait_for_both_disks() -> None:
    """Until the mirror has two disks that are alike."""
    whole = "State : (clean|active) $"
    machine.wait_until_succeeds(f"mdadm --detail /dev/md/mirror | grep -E '{whole}'", timeout=60)


def check_data() -> None:
    machine.succeed("sync", "echo 3 > /proc/sys/vm/drop_caches", "cd /mnt; sha256sum --check sums")


with subtest("a mirror, a volume on it, a file system on that"):
    machine.succeed(
        f"mdadm --create mirror --run --level=1 --raid-devices=2 {FIRST} {SECOND} 2>&1",
        "vgcreate --quiet vg /dev/md/mirror",
        "lvcreate --quiet --name data --size 40M vg",
        "mkfs.ext4 -q /dev/vg/data",
        "echo '/dev/vg/data /mnt ext4 nofail 0 0' >> /etc/fstab",
        "mount /mnt",
        "head -c 20M /dev/urandom > /mnt/file",
        "cd /mnt; sha256sum file > sums",
    )
    wait_for_both_disks()
    check_data()

with subtest("a disk fails, and the mirror goes on without it"):
    pull_out(FIRST)
    machine.succeed("head -c 5M /dev/urandom > /mnt/more", "cd /mnt; sha256sum more >> sums")
    check_data()
    machine.succeed("mdadm --detail /dev/md/mirror | grep 'State : .*degraded'")

with subtest("a new disk takes its place"):
    machine.succeed(f"mdadm --add /dev/md/mirror {NEW}")
    wait_for_both_disks()

with subtest("after a reboot the failed disk is there again, and does no harm"):
    machine.reboot()
    machine.wait_for_unit("mnt.mount")
    wait_for_both_disks()
    check_data()

with subtest("all is on the new disk: the other can fail, too"):
    pull_out(SECOND)
    check_data()
