"""What is done in a machine that boots, before its test, and what its disks remember of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from attest.disk.qemu_img import create
from attest.errors import ChannelError
from attest.events import EventLog
from attest.guest.channel import Channel, Command, Completed, Follower
from attest.image.model import Image
from attest.manifest import parse_manifest
from attest.net.cell import Cell
from attest.node.launcher import Launcher
from attest.node.resolved import resolve
from attest.provision.preparation import prepare_boot
from attest.vmm.base import Saved, Vmm


class Guest:
    """What is copied into a machine, and run in it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails = False

    def place(self, source: Path, target: str) -> list[str]:
        self.done.append(target)
        return []

    def start(self, command: Command, *, follower: Follower) -> Guest:
        self.done.append(str(command.command))
        return self

    def wait(self, timeout: float | None) -> Completed:
        if self.fails:
            self.done.pop()
            raise ChannelError("m", "it was ended")
        return Completed(0, b"", b"")

    def abandon(self) -> None:
        pass


def node(
    directory: Path,
    *,
    name: str = "m",
    kept: Path | None = None,
    root_image: Path | None = None,
    **keys: Any,
) -> Launcher:
    """One with a file and a step, whose VMM is none."""
    root = directory / "root.ext4"
    root.write_bytes((bytes(1080) + b"\x53\xef").ljust(4096, b"\0"))  # as its superblock says it is
    image = Image(
        digest="0" * 64, name="own", arch="x86_64", path=directory, kernel=directory / "vmlinuz",
        vmlinux=None, initrd=directory / "initrd", root=root, cmdline=(), init="systemd",
    )  # fmt: skip
    declared = parse_manifest(
        {"nodes": {"m": {"files": {"/file": str(root)}, "warm_steps": ["step"], **keys}}}
    ).nodes["m"]
    resolved = resolve("m", 1, declared, image, accelerator="tcg", vmm="qemu", programs={})
    assert resolved.root_disk or not root_image
    resolved.root_disk = resolved.root_disk and replace(resolved.root_disk, image=root_image)
    launcher = Launcher(
        resolved, cell=cast("Cell", None), directory=directory / name, relative_to=directory,
        hosts=str, kept=kept,
    )  # fmt: skip
    launcher.start = lambda *_: cast("Vmm", None)  # type: ignore[method-assign]
    return launcher


def booted(launcher: Launcher, guest: Guest, saved: Saved | None = None) -> list[str]:
    """Start it; what is done in it when it has booted."""
    launcher.start_vmm(False, saved, lambda _: None, lambda *_: None)
    guest.done.clear()
    prepare_boot(launcher, cast("Channel", guest), EventLog())
    return list(guest.done)


ALL = ["/file", "step"]


def test_what_is_on_disks_is_not_done_again(tmp_path: Path) -> None:
    launcher, guest = node(tmp_path), Guest()
    assert booted(launcher, guest) == ALL
    assert booted(launcher, guest) == []


def test_what_a_power_cut_has_prevented_is_done_at_the_next_start(tmp_path: Path) -> None:
    launcher, guest = node(tmp_path), Guest()
    guest.fails = True
    with pytest.raises(ChannelError):
        booted(launcher, guest)
    guest.fails = False
    assert booted(launcher, guest) == ALL
    assert booted(launcher, guest) == []


def test_a_root_in_memory_gets_its_files_at_each_start(tmp_path: Path) -> None:
    """Its disks have what the steps have done to them, which would undo what came later."""
    launcher, guest = node(tmp_path, root="memory", disks=[{"size": 1}]), Guest()
    assert booted(launcher, guest) == ALL
    assert booted(launcher, guest) == ["/file"]


def test_a_machine_without_disks_gets_everything_at_each_start(tmp_path: Path) -> None:
    launcher, guest = node(tmp_path, root="memory"), Guest()
    assert booted(launcher, guest) == ALL
    assert booted(launcher, guest) == ALL


def test_nothing_is_done_again_to_what_was_kept(tmp_path: Path) -> None:
    """A machine of a failed test that was off."""
    kept = tmp_path / "kept"
    kept.mkdir()
    create(kept / "0.disk", 1)
    disks = [{"image": str(kept / "0.disk")}]
    launcher = node(tmp_path, kept=kept, root="memory", disks=disks)
    assert booted(launcher, Guest()) == ["/file"]
    launcher = node(tmp_path, name="root", kept=kept, root_image=kept / "0.disk")
    assert booted(launcher, Guest()) == []
