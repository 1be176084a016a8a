"""Roots on disks: what an image lets a machine have, and the file that it gets."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from attest.disk.machine_disks import Disks, RootDisk
from attest.disk.qemu_img import chain, create, create_ext4
from attest.errors import ManifestError
from attest.image.model import Image
from attest.manifest import Disk, parse_manifest
from attest.node.resolved import ResolvedNode, resolve
from attest.support.user_namespace import program_path
from attest.vmm.qemu.binary import find_qemu


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """One whose root is an ext4 file system of 64 MiB."""
    root = tmp_path / "root.ext4"
    create_ext4(root, 64, "", "raw")
    return Image(
        digest="0" * 64, name="own", arch="x86_64", path=tmp_path, kernel=tmp_path / "vmlinuz",
        vmlinux=None, initrd=tmp_path / "initrd", root=root, cmdline=(), init="systemd",
    )  # fmt: skip


def resolved(image: Image, **keys: Any) -> ResolvedNode:
    node = parse_manifest({"nodes": {"m": keys}}).nodes["m"]
    return resolve("m", 1, node, image, accelerator="tcg", vmm="qemu", programs={})


def test_an_ext4_root_s_changes_are_kept(image: Image) -> None:
    assert resolved(image).root_disk == RootDisk("changes", 8192)
    assert resolved(image, root="disk", root_size=64).root_disk == RootDisk("changes", 64)


def test_a_root_of_another_file_system_gets_one_for_its_files(image: Image) -> None:
    assert image.root is not None
    image.root.write_bytes(bytes(8192))
    assert resolved(image).root_disk == RootDisk("files", 8192)


def test_a_guest_with_an_initrd_of_its_own_gets_what_its_description_asks_for(
    image: Image,
) -> None:
    own = replace(image, own_initrd=True)
    assert resolved(own).root_disk is None
    assert resolved(replace(own, root_label="state")).root_disk == RootDisk("files", 8192, "state")


def test_a_root_in_memory_has_no_disk(image: Image) -> None:
    node = resolved(image, root="memory")
    assert node.root_disk is None
    assert node.spec(Path()).root_size == 0
    assert node.shape(disks=[]) == resolved(image).shape(disks=[])  # its disks are the difference


@pytest.mark.parametrize(
    ("own", "keys", "told"),
    [
        (False, {"root_size": 64}, "root_size: the image own needs 65 MiB, found 64"),
        (False, {"root": "memory", "root_size": 64}, "root_size: with root = \"memory\""),
        (True, {"root": "disk"}, "root: the image own has its root in memory only"),
        (True, {"root_size": 64}, "root_size: the image own has its root in memory only"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    image: Image, own: bool, keys: dict[str, Any], told: str
) -> None:
    assert image.root is not None
    with image.root.open("r+b") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ManifestError, match=rf"nodes\.m\.{told}"):
        resolved(replace(image, own_initrd=own), **keys)


def disks(directory: Path, root: RootDisk, format: Literal["qcow2", "raw"] = "qcow2") -> Disks:
    directory.mkdir()
    return Disks(directory, [Disk(size=1)], root, directory, format, find_qemu())


def size_of(file: Path) -> int:
    told = subprocess.run(["qemu-img", "info", file], capture_output=True, text=True, check=True)
    (line,) = (line for line in told.stdout.splitlines() if line.startswith("virtual size"))
    return int(line.partition("(")[2].split()[0])


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_the_root_s_disk_follows_the_declared_ones(
    tmp_path: Path, format: Literal["qcow2", "raw"]
) -> None:
    own = disks(tmp_path / "m", RootDisk("changes", 1024), format)
    assert not own.written
    _, root = own.begin()
    # Each 4096 bytes that changed, and where they are.
    assert size_of(root) > (1024 << 20) * (4096 + 16) // 4096
    assert root.stat().st_blocks * 512 < 1 << 20
    assert own.begin() == own.files
    one, other = (disks(tmp_path / name, RootDisk("changes", size)) for name, size in
                  (("one", 64), ("other", 65)))  # fmt: skip
    assert list(one.contents()) != list(other.contents())


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_disk_for_files_has_a_file_system(
    tmp_path: Path, format: Literal["qcow2", "raw"]
) -> None:
    own = disks(tmp_path / "m", RootDisk("files", 64, "state"), format)
    _, root = own.begin()
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", root, raw], check=True)
    told = subprocess.run(
        ["dumpe2fs", "-h", raw],
        env={"PATH": program_path()}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Filesystem volume name:   state" in told.stdout
    assert size_of(root) == 64 << 20
    assert list((tmp_path / "m").rglob("*.raw")) == []


def test_a_disk_that_was_kept_is_where_it_begins(tmp_path: Path) -> None:
    before = disks(tmp_path / "before", RootDisk("changes", 64)).begin()[1]
    after = disks(tmp_path / "after", RootDisk("changes", 64, image=before)).begin()[1]
    assert [layer.path for layer in chain(after)] == [after, before]


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_disks_that_were_kept_are_what_they_were_whatever_they_look_like(
    tmp_path: Path, format: Literal["qcow2", "raw"]
) -> None:
    kept, secret, inner = tmp_path / "kept", tmp_path / "secret", tmp_path / "inner"
    kept.mkdir()
    secret.write_bytes(b"secret".ljust(1 << 20))
    create(inner, backing=secret)  # as a guest may write it to a disk of its own
    _run("convert", "-f", "raw", "-O", format, inner, kept / "0.disk")
    declared = [Disk(image=str(kept / "0.disk"))]
    own = Disks(tmp_path, declared, None, tmp_path, format, find_qemu(), kept)
    assert own.begun
    assert not own.written
    (file,) = own.begin()
    _run("convert", "-f", format, "-O", "raw", file, tmp_path / "seen")
    size = inner.stat().st_size
    assert (tmp_path / "seen").read_bytes()[:size] == inner.read_bytes()


def _run(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True)
