"""Cached snapshots that do not restore: the machine boots, and the reason is told."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import AttestError
from attest.events import Event, EventLog, Kind
from attest.machine.instance_states import DEFAULT_LIMITS, Limits
from attest.snapshot.cache import Entry, SnapshotCache
from attest.support.paths import cache_dir
from tests.kvm.conftest import Vmm
from tests.obtaining import obtain

REMOVED = "its snapshot does not restore and was removed, so it boots: "

DIES = (
    '(now=; while [ "$now" != one ]; do sleep 0.01; read now < /proc/sys/kernel/hostname; done;'
    " sleep 2; echo c > /proc/sysrq-trigger) < /dev/null > /dev/null 2>&1 &"
)
"""A warm step after which a machine dies, a moment after it was told that it is `one`."""


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of snapshots for the test alone; all else is where it was."""
    home = tmp_path / "cache/attest"
    home.mkdir(parents=True)
    for name in ("images", "kvm-probe"):
        (cache_dir() / name).mkdir(parents=True, exist_ok=True)
        (home / name).symlink_to(cache_dir() / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent))
    return home / "snapshots"


class Told:
    """What a cluster tells."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.warnings: list[str] = []
        self.fatal: list[AttestError] = []
        self.events = EventLog()
        self.events.subscribe(self._hear)
        self.warned = threading.Event()

    def _hear(self, event: Event) -> None:
        if event.kind is Kind.WARNING:
            self.warnings.append(event.text)
            self.warned.set()

    def cluster(self, vmm: Vmm, name: str = "one", **node: object) -> Cluster:
        return Cluster(
            {"nodes": vmm.nodes(name, **node)}, accelerator="kvm", events=self.events,
            on_fatal=self.fatal.append, limits=self.limits,
        )  # fmt: skip


def made(vmm: Vmm) -> Entry:
    """The entry for a tiny machine, of the usual cache."""
    with vmm.cluster("one") as cluster:
        cluster["one"].connect()
    return max(SnapshotCache().entries(), key=lambda entry: entry.last_used)


@pytest.fixture
def sound(vmm: Vmm) -> Entry:
    return made(vmm)


def put_without_memory(snapshots: Path, entry: Entry) -> None:
    """Put an entry into a cache, and leave nothing of its memory: the kernel is not there."""

    def make(into: Path) -> None:
        for file in (entry.path / "memory", entry.path / "state"):
            subprocess.run(["cp", "--sparse=always", file, into], check=True)
        size = (into / "memory").stat().st_size
        os.truncate(into / "memory", 0)
        os.truncate(into / "memory", size)

    cache = SnapshotCache(snapshots)
    obtain(
        cache, entry.shape, make, stop=threading.Event(), waiting=pytest.fail, broken=pytest.fail
    )
    cache.close()


def test_a_clone_that_faults_as_soon_as_it_runs(vmm: Vmm, sound: Entry, snapshots: Path) -> None:
    ends = {
        "qemu": r"\(exit code 0: .*Guest index",
        # One of its devices may be the first to miss the memory.
        "firecracker": r"\((exit code 1|signal 6): .*(on vcpu run: Shutdown|panicked at .*virtio)",
        "cloud-hypervisor": r"\(exit code 0: .* Guest likely triple-faulted",
    }
    put_without_memory(snapshots, sound)
    told = Told()
    with told.cluster(vmm) as cluster:
        assert cluster["one"].succeed("hostname") == "one\n"
    (warning,) = told.warnings
    print(warning)
    assert re.match(rf"{REMOVED}.*the VMM ended {ends[vmm.name]}", warning)
    assert told.fatal == []
    assert SnapshotCache(snapshots).entries() == []


def test_a_clone_that_dies_a_moment_after_its_first_answer(vmm: Vmm, snapshots: Path) -> None:
    told = Told(Limits(probation=60))  # however busy the host
    with told.cluster(vmm, "maker", warm_steps=[DIES]) as cluster:
        cluster["maker"].connect()
    with told.cluster(vmm, warm_steps=[DIES]) as cluster:
        one = cluster["one"]
        one.start()
        assert told.warned.wait(120)
        assert one.succeed("hostname") == "one\n"
    (warning,) = told.warnings
    assert re.match(rf"{REMOVED}it died [\d.]+ s after its first answer: kernel panic: \[", warning)
    assert told.fatal == []
    (before_the_step,) = SnapshotCache(snapshots).entries()
    assert before_the_step.shape.warm_steps == ()


def test_a_file_of_the_host_that_has_changed_costs_no_boot(
    vmm: Vmm, snapshots: Path, tmp_path: Path
) -> None:
    """What has booted is saved once; it goes on from there, with its memory and its disk."""
    app = tmp_path / "app"
    for content in ("one", "two"):
        app.write_text(content)
        told = Told()
        with told.cluster(
            vmm, files={"/srv/app": str(app)}, warm_steps=["cat /srv/app > /srv/seen"],
            disks=[{"size": 8}],
        ) as cluster:  # fmt: skip
            assert cluster["one"].succeed("cat /srv/app /srv/seen") == 2 * content
        assert told.warnings == []
    entries = SnapshotCache(snapshots).entries()
    assert sorted(len(entry.shape.files) for entry in entries) == [0, 1, 1]


def test_the_machine_that_is_saved_goes_on_as_a_clone(vmm: Vmm, snapshots: Path) -> None:
    """Its disk, its network and its connections, beside a clone of what was saved."""
    told = Told()
    node = vmm.nodes("one", disks=[{"size": 8}])["one"]
    with Cluster(
        {"nodes": {"one": node, "two": node}}, accelerator="kvm", events=told.events
    ) as cluster:
        one, two = cluster["one"], cluster["two"]
        one.succeed("echo later > /later")
        two.succeed("test ! -e /later")
        who = [machine.succeed("hostname; cat /etc/machine-id").split() for machine in (one, two)]
        assert [name for name, _ in who] == ["one", "two"]
        assert who[0][1] != who[1][1]
        one.succeed("ping -c 1 -W 20 two")
        two.succeed("ping -c 1 -W 20 one")
        snapshot = one.snapshot("later")
        one.succeed("rm /later; true")
        one.restore(snapshot)
        assert one.succeed("cat /later") == "later\n"
    assert told.warnings == []
    assert len(SnapshotCache(snapshots).entries()) == 1
