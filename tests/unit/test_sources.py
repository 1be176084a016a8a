"""What machines start from when the image of a disk changes between, and while, they start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from attest.events import EventLog
from attest.image.model import Image
from attest.machine.contracts import InstanceContext
from attest.manifest import Disk, Node
from attest.net.cell import Cell
from attest.node.launcher import Launcher
from attest.node.resolved import resolve
from attest.provision.sources import PrebuiltSources, Sources
from attest.provision.warm import WarmSources
from attest.snapshot.cache import SnapshotCache
from attest.snapshot.prebuilt import PrebuiltSnapshots
from attest.snapshot.record import write_record
from attest.vmm.base import Saved

_QEMU = '#!/bin/sh\necho "QEMU emulator version 10.0.2"\n'


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The image that the machine's disk begins as."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(512))
    return path


@pytest.fixture
def launcher(tmp_path: Path, disk: Path) -> Launcher:
    qemu = tmp_path / "qemu"
    qemu.write_text(_QEMU)
    qemu.chmod(0o755)
    image = Image(
        digest="0" * 64, name="web", arch="x86_64", path=tmp_path, root=None, kernel=tmp_path,
        vmlinux=None, initrd=tmp_path, cmdline=(), init="agent",
    )  # fmt: skip
    node = resolve(
        "web", 1, Node(disks=[Disk(image=disk.name)]), image, accelerator="tcg", vmm="qemu",
        programs={"qemu": str(qemu)},
    )  # fmt: skip
    return Launcher(
        node, cell=cast("Cell", None), directory=tmp_path / "web", relative_to=tmp_path, hosts=str
    )


def change(disk: Path) -> None:
    os.utime(disk, (2_000_000_000, 2_000_000_000))


def put(directory: Path, launcher: Launcher) -> Path:
    """A snapshot of the node's shape as it is now."""
    shape = launcher.look_at_shape()
    path = directory / shape.key()
    path.mkdir(parents=True)
    for name in ("memory", "state", "disk0"):
        (path / name).write_bytes(name.encode())
    write_record(path, shape)
    return path


def _warm(directory: Path) -> Sources:
    return WarmSources(SnapshotCache(directory), EventLog())


def _given(directory: Path) -> Sources:
    return PrebuiltSources(PrebuiltSnapshots(directory), EventLog())


@pytest.fixture(params=[_warm, _given])
def make(request: pytest.FixtureRequest) -> Callable[[Path], Sources]:
    return cast("Callable[[Path], Sources]", request.param)


def saved(sources: Sources, launcher: Launcher) -> Saved | None:
    return sources.find(launcher, cast("InstanceContext", None))


def test_a_disk_that_changes_while_the_machine_starts(
    make: Callable[[Path], Sources], launcher: Launcher, disk: Path, tmp_path: Path
) -> None:
    first = put(tmp_path / "snapshots", launcher)
    sources = make(tmp_path / "snapshots")
    found = saved(sources, launcher)
    assert found is not None
    assert found.state == first / "state"
    change(disk)
    sources.report_spoilt(launcher, "it did not answer")
    second = put(tmp_path / "snapshots", launcher)
    found = saved(sources, launcher)
    assert found is not None
    assert found.state == second / "state"
    sources.close()


def test_what_is_spoilt_is_what_was_found(
    make: Callable[[Path], Sources], launcher: Launcher, disk: Path, tmp_path: Path
) -> None:
    """Not what the disk's image is by then, of which there is a snapshot, too."""
    before = disk.stat()
    put(tmp_path / "snapshots", launcher)
    change(disk)
    put(tmp_path / "snapshots", launcher)
    os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    sources = make(tmp_path / "snapshots")
    assert saved(sources, launcher) is not None
    change(disk)
    sources.report_spoilt(launcher, "it did not answer")
    assert saved(sources, launcher) is not None
    sources.close()


def test_the_shape_is_that_of_the_start(launcher: Launcher, disk: Path) -> None:
    shape: Any = launcher.look_at_shape()
    change(disk)
    assert launcher.shape() == shape
    assert launcher.look_at_shape() != shape
    disk.unlink()
    assert launcher.shape() != shape


def test_a_snapshot_that_another_machine_has_given_up_is_told_once(
    launcher: Launcher, tmp_path: Path
) -> None:
    """That one was to be made from it."""
    put(tmp_path / "snapshots", launcher)
    told: list[str] = []
    events = EventLog()
    events.subscribe(lambda event: told.append(event.text))
    sources = WarmSources(SnapshotCache(tmp_path / "snapshots"), events)
    assert saved(sources, launcher) is not None
    entry = sources._found[launcher.shape()].result()
    assert entry is not None
    sources._forget(entry)
    sources.report_spoilt(launcher, "it did not answer")
    assert told == []
    sources.close()
