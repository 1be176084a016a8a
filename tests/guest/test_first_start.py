"""The machine that boots for a snapshot goes on, and is a clone like those of its snapshot."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import CommandFailed
from attest.events import Event, EventLog, Kind
from attest.snapshot.cache import SnapshotCache
from attest.support.paths import cache_dir

_SAVED = "save tiny for later starts: booted"
_RECIPE = """
base = "debian"
packages = ["openssh-server"]
"""
_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
_WHO = (
    f"hostname; cat /etc/machine-id; cat {_KEY};"
    " ip -br address show eth0; cat /proc/sys/kernel/random/uuid"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with images, and without snapshots."""
    home = tmp_path / "home"
    (home / "attest").mkdir(parents=True)
    (home / "attest/images").symlink_to(cache_dir() / "images")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr("os.fsync", lambda _: None)
    yield home
    shutil.rmtree(home)


class Told:
    """What a cluster has told: what was saved, the machines that were ready, and warnings."""

    def __init__(self) -> None:
        self.events = EventLog()
        self.saved: list[tuple[str | None, str]] = []
        self.stages: list[tuple[str | None, str]] = []
        self.warnings: list[str] = []
        self.events.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        if event.text.startswith("save ") and event.phase == "begin":
            self.saved.append((event.machine, event.text))
        elif event.kind is Kind.STAGE:
            self.stages.append((event.machine, event.text))
        elif event.kind is Kind.WARNING:
            self.warnings.append(event.text)


@pytest.mark.timeout(600)
def test_who_goes_on_is_a_clone_like_any_other(home: Path, tmp_path: Path) -> None:
    """Identity, SSH keys, randomness, clock, network and disks, beside two clones of it."""
    (tmp_path / "ssh.toml").write_text(_RECIPE)
    node = {"image": str(tmp_path / "ssh.toml"), "disks": [{"size": 8}], "memory": 256}
    told = Told()
    manifest: dict[str, Any] = {"nodes": {"one": node, "two": node, "three": node}}
    with Cluster(manifest, accelerator="tcg", events=told.events) as cluster:
        one, two, three = cluster["one"], cluster["two"], cluster["three"]
        one.succeed("echo later > /root/later; echo later > /dev/shm/later")
        one.succeed("dd if=/dev/zero of=/dev/disk/by-id/virtio-disk0 bs=512 count=1 conv=fsync")
        cluster.start_all()
        said = {name: cluster[name].succeed(_WHO).splitlines() for name in cluster}
        names, ids, keys, cards, random = zip(*said.values(), strict=True)
        assert names == ("one", "two", "three")
        # Also who goes on has other keys than those that are in the snapshot.
        assert [key.split()[2] for key in keys] == ["root@one", "root@two", "root@three"]
        assert len(set(ids)) == len(set(keys)) == len(set(random)) == 3
        assert [card.split()[2].partition("/")[0] for card in cards] == [
            machine.ip() for machine in (one, two, three)
        ]
        for machine in (one, two, three):
            assert abs(int(machine.succeed("date +%s")) - time.time()) < 60
            for other in (one, two, three):
                machine.succeed(f"ping -c 1 -W 20 {other.name}")
            presented = machine.succeed(
                "ssh-keyscan -T 60 -t ed25519 127.0.0.1 2>/dev/null"
            ).split()
            assert presented[2] == machine.succeed(f"cat {_KEY}").split()[1]
        for clone in (two, three):  # what it did afterwards is its own
            clone.succeed("test ! -e /root/later && test ! -e /dev/shm/later")
        assert told.stages.count(("one", "kernel")) == 1
        assert ("two", "kernel") not in told.stages

        snapshot = one.snapshot("later")
        one.succeed("rm /root/later /dev/shm/later")
        one.restore(snapshot)
        one.succeed("test -e /root/later && test -e /dev/shm/later")
        (twin,) = snapshot.clone(1)
        assert twin.succeed("hostname; cat /root/later") == "one-1\nlater\n"

        one.shutdown()
        one.start()
        assert one.succeed("hostname; cat /root/later") == "one\nlater\n"
        assert one.succeed("cat /etc/machine-id").strip() == ids[0]
    assert [text.partition(" for ")[2] for _, text in told.saved] == ["later starts: booted"]
    assert told.warnings == []


def test_its_memory_goes_with_its_vmm(home: Path) -> None:
    others = _memories()  # of machines that several tests share
    with Cluster({"nodes": {"one": {"image": "tiny", "memory": 96}}}, accelerator="tcg") as cluster:
        cluster["one"].succeed("true")
        assert _memories() == others + 1
        cluster["one"].reboot()
        assert _memories() == others


def _memories() -> int:
    """How many memories of guests this process holds."""
    links = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    return sum("memfd:guest memory" in link for link in links)


def test_it_meets_nobody_until_it_was_saved(home: Path) -> None:
    step = (
        "ip link set eth0 up; ip address add 192.168.1.9/24 dev eth0;"
        " if ping -c 3 -W 5 192.168.1.2; then exit 1; fi"
    )
    node = {"image": "tiny", "memory": 96, "warm_steps": [step]}
    told = Told()
    manifest: dict[str, Any] = {"nodes": {"one": node, "two": {"image": "tiny", "memory": 100}}}
    with Cluster(manifest, accelerator="tcg", events=told.events) as cluster:
        assert cluster["two"].ip() == "192.168.1.2"
        cluster["two"].succeed("true")
        cluster["one"].succeed("ping -c 1 -W 20 192.168.1.2")
    assert [text for name, text in told.saved if name == "one"] == [
        _SAVED, "save tiny for later starts: steps",
    ]  # fmt: skip


def test_a_step_that_fails_fails_the_machine_and_saves_what_had_booted(home: Path) -> None:
    node = {"image": "tiny", "memory": 96, "warm_steps": ["exit 3"]}
    with (
        Cluster({"nodes": {"one": node}}, accelerator="tcg") as cluster,
        pytest.raises(CommandFailed, match="as a warm step: exit code 3"),
    ):
        cluster["one"].succeed("true")
    (entry,) = SnapshotCache().entries()
    assert entry.shape.state == "booted"
    assert list((home / "attest/snapshots/making").iterdir()) == []


def test_what_reboots_before_it_is_ready_boots_and_is_not_saved(home: Path) -> None:
    """As the guest of a user does that reboots once for a setting of its own."""
    reboots = (
        "head -c 4 /dev/vda | grep -q done"
        " || { printf done | dd of=/dev/vda conv=fsync; echo b > /proc/sysrq-trigger; sleep 99; }"
    )
    node = {
        "image": "tiny", "memory": 96, "allow_reboot": True, "disks": [{"size": 1}],
        "warm_steps": [reboots],
    }  # fmt: skip
    told = Told()
    with Cluster({"nodes": {"one": node}}, accelerator="tcg", events=told.events) as cluster:
        assert cluster["one"].succeed("hostname") == "one\n"
    assert told.warnings == ["no snapshot could be made: it rebooted before it was ready"]
    assert [entry.shape.state for entry in SnapshotCache().entries()] == ["booted"]


def test_one_that_is_ended_leaves_the_snapshot_to_another(home: Path) -> None:
    node = {"image": "tiny", "memory": 96}
    told = Told()
    manifest = {"nodes": {"one": node, "two": node}}
    with Cluster(manifest, accelerator="tcg", events=told.events) as cluster:
        one, two = cluster["one"], cluster["two"]
        one.start()
        one.wait_for_console_text("Linux version")
        two.start()
        one.crash()
        assert two.succeed("hostname") == "two\n"
        assert one.succeed("hostname") == "one\n"
    assert told.saved == [("two", _SAVED)]
    assert told.warnings == []
    assert len(SnapshotCache().entries()) == 1


def test_nothing_is_saved_where_the_user_says_so(home: Path) -> None:
    node = {"image": "tiny", "memory": 96, "files": {"/etc/told": "told"}}
    (home / "told").write_text("told")
    manifest: dict[str, Any] = {"nodes": {"one": node}, "directory": str(home)}
    told = Told()
    with Cluster(manifest, accelerator="tcg", save=False, events=told.events) as cluster:
        assert cluster["one"].succeed("cat /etc/told") == "told"
    assert (told.saved, told.warnings) == ([], [])
    assert SnapshotCache().entries() == []

    with Cluster(manifest, accelerator="tcg", events=told.events) as cluster:
        cluster["one"].succeed("true")
    before = [entry.path for entry in SnapshotCache().entries()]
    with Cluster(manifest, accelerator="tcg", save=False, events=told.events) as cluster:
        cluster["one"].succeed("true")
    assert [entry.path for entry in SnapshotCache().entries()] == before
    assert told.stages.count(("one", "kernel")) == 2  # the third was a clone
