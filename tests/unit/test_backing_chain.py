"""Chains of disks' files, brought into one directory with the real qemu-img."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attest.disk import qemu_img as disk
from attest.disk.backing_chain import CollectedDisks

_SIZE = 4
"""MiB"""


class Files:
    """A cluster's scratch directory, the cache, and a place of the user's."""

    def __init__(self, directory: Path) -> None:
        self.scratch = directory / "scratch"
        self.cache = directory / "cache" / "attest"
        self.user = directory / "user"
        self.into = directory / "into"
        for each in (self.scratch, self.cache, self.user, self.into):
            each.mkdir(parents=True)

    def raw(self, name: str = "base") -> Path:
        path = self.user / name
        path.write_bytes(b"0" * 512)
        os.truncate(path, _SIZE << 20)
        return path

    @staticmethod
    def disk(path: Path, backing: Path | None = None) -> Path:
        disk.create(path, size_mib=None if backing else _SIZE, backing=backing)
        return path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Files(tmp_path)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory on another file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def _write(path: Path, block: int, text: str) -> None:
    """Write a text to a block of a disk."""
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P {ord(text)} {block * 512} 512", path],
        capture_output=True, check=True,
    )  # fmt: skip


def _content(path: Path, blocks: int) -> str:
    """The first character of each of the first blocks."""
    raw = path.with_name(f"{path.name}.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    with raw.open("rb") as file:
        found = file.read(512 * blocks)[::512]
    raw.unlink()
    return found.replace(b"\0", b".").decode()


def test_a_disk_comes_with_all_that_it_is_an_overlay_of(files: Files) -> None:
    cached = files.disk(files.cache / "disk0", files.raw())
    frozen = files.disk(files.scratch / "frozen", cached)
    top = files.disk(files.scratch / "top", frozen)
    for path, block in ((cached, 1), (frozen, 2), (top, 3)):
        _write(path, block, str(block))
    layers = CollectedDisks(files.into, files.scratch)
    name = layers.bring({top: "qcow2"})[top]
    moved = files.into.rename(files.into.with_name("moved"))
    for gone in (files.scratch, files.cache, files.user):
        shutil.rmtree(gone)
    assert _content(moved / name, 5) == "0123."


def test_the_cache_keeps_its_files_as_they_were(files: Files) -> None:
    empty = files.disk(files.cache / "empty")
    based = files.disk(files.cache / "based", files.raw())
    before = [(path.read_bytes(), path.stat().st_ctime_ns) for path in (empty, based)]
    tops = [files.disk(files.scratch / path.name, path) for path in (empty, based)]
    CollectedDisks(files.into, files.scratch).bring(dict.fromkeys(tops, "qcow2"))
    assert [(path.read_bytes(), path.stat().st_ctime_ns) for path in (empty, based)] == before


def test_files_that_disks_share_stay_shared(files: Files) -> None:
    base = files.disk(files.scratch / "base", files.raw())
    frozen = files.disk(files.scratch / "frozen", base)
    tops = [files.disk(files.scratch / f"top{index}", frozen) for index in range(3)]
    _write(base, 1, "1")
    for index, top in enumerate(tops):
        _write(top, 2, "abc"[index])
    names = CollectedDisks(files.into, files.scratch).bring(dict.fromkeys(tops, "qcow2"))
    assert len(list(files.into.iterdir())) == 6
    shutil.rmtree(files.scratch)
    assert [_content(files.into / names[top], 3) for top in tops] == ["01a", "01b", "01c"]


def test_nothing_is_copied_that_can_be_linked(files: Files) -> None:
    base = files.raw()
    top = files.disk(files.scratch / "top", base)
    inodes = {base.stat().st_ino, top.stat().st_ino}
    layers = CollectedDisks(files.into, files.scratch)
    layers.bring({top: "qcow2"})
    assert {path.stat().st_ino for path in files.into.iterdir()} == inodes
    # The user's image can be written still, under its own name.
    assert [each.path for each in layers.foreign.values()] == [str(base)]


def test_holes_stay_holes_on_another_file_system(files: Files, elsewhere: Path) -> None:
    top = files.disk(files.scratch / "top", files.raw())
    _write(top, 1, "1")
    layers = CollectedDisks(elsewhere, files.scratch)
    name = layers.bring({top: "qcow2"})[top]
    assert layers.foreign == {}
    assert _content(elsewhere / name, 2) == "01"
    assert sum(path.stat().st_blocks * 512 for path in elsewhere.iterdir()) < 1 << 20


def test_what_a_guest_writes_to_a_raw_disk_is_not_taken_for_an_overlay(files: Files) -> None:
    secret = files.user / "secret"
    secret.write_bytes(b"secret".ljust(512))
    trap = files.disk(files.scratch / "trap", secret)
    top = files.scratch / "top"
    top.write_bytes(trap.read_bytes())
    layers = CollectedDisks(files.into, files.scratch)
    assert layers.bring({top: "raw"}) == {top: "0.disk"}
    (kept,) = files.into.iterdir()
    assert kept.read_bytes() == trap.read_bytes()
    assert layers.foreign == {}
