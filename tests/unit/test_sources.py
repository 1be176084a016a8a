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
from attest.node.resolved import Seat
from attest.provision.sources import GivenStarts, Starts
from attest.provision.warm import WarmStarts
from attest.snapshot.cache import SnapshotCache
from attest.snapshot.prebuilt import GivenSnapshots
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
def seat(tmp_path: Path, disk: Path) -> Seat:
    qemu = tmp_path / "qemu"
    qemu.write_text(_QEMU)
    qemu.chmod(0o755)
    image = Image(
        digest="0" * 64, name="web", arch="x86_64", path=tmp_path, root=None, kernel=tmp_path,
        vmlinux=None, initrd=tmp_path, cmdline=(), init="agent",
    )  # fmt: skip
    return Seat(
        name="web", number=1, node=Node(disks=[Disk(image=disk.name)]), image=image,
        accelerator="tcg", vmm="qemu", programs={"qemu": str(qemu)}, cell=cast("Cell", None),
        directory=tmp_path / "web", hosts=str, relative_to=tmp_path,
    )  # fmt: skip


def change(disk: Path) -> None:
    os.utime(disk, (2_000_000_000, 2_000_000_000))


def put(directory: Path, seat: Seat) -> Path:
    """A snapshot of the seat's shape as it is now."""
    shape = seat.look_at_shape()
    path = directory / shape.key()
    path.mkdir(parents=True)
    for name in ("memory", "state", "disk0"):
        (path / name).write_bytes(name.encode())
    write_record(path, shape)
    return path


def _warm(directory: Path) -> Starts:
    return WarmStarts(SnapshotCache(directory), EventLog())


def _given(directory: Path) -> Starts:
    return GivenStarts(GivenSnapshots(directory), EventLog())


@pytest.fixture(params=[_warm, _given])
def make(request: pytest.FixtureRequest) -> Callable[[Path], Starts]:
    return cast("Callable[[Path], Starts]", request.param)


def saved(starts: Starts, seat: Seat) -> Saved | None:
    return starts.find(seat, cast("InstanceContext", None))


def test_a_disk_that_changes_while_the_machine_starts(
    make: Callable[[Path], Starts], seat: Seat, disk: Path, tmp_path: Path
) -> None:
    first = put(tmp_path / "snapshots", seat)
    starts = make(tmp_path / "snapshots")
    found = saved(starts, seat)
    assert found is not None
    assert found.state == first / "state"
    change(disk)
    starts.report_spoilt(seat, "it did not answer")
    second = put(tmp_path / "snapshots", seat)
    found = saved(starts, seat)
    assert found is not None
    assert found.state == second / "state"
    starts.close()


def test_what_is_spoilt_is_what_was_found(
    make: Callable[[Path], Starts], seat: Seat, disk: Path, tmp_path: Path
) -> None:
    """Not what the disk's image is by then, of which there is a snapshot, too."""
    before = disk.stat()
    put(tmp_path / "snapshots", seat)
    change(disk)
    put(tmp_path / "snapshots", seat)
    os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    starts = make(tmp_path / "snapshots")
    assert saved(starts, seat) is not None
    change(disk)
    starts.report_spoilt(seat, "it did not answer")
    assert saved(starts, seat) is not None
    starts.close()


def test_the_shape_is_that_of_the_start(seat: Seat, disk: Path) -> None:
    shape: Any = seat.look_at_shape()
    change(disk)
    assert seat.shape() == shape
    assert seat.look_at_shape() != shape
    disk.unlink()
    assert seat.shape() != shape
