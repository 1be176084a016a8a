"""Disks' files, made with the real qemu-img."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attest.disk import qemu_img as disk
from attest.errors import HostError
from attest.vmm.qemu.binary import QemuBinary


@pytest.fixture(autouse=True)
def fresh_search() -> Iterator[None]:
    disk.find_qemu_img.cache_clear()
    yield
    disk.find_qemu_img.cache_clear()


def info(path: Path) -> Any:
    """What qemu-img says of an image."""
    command = [disk.find_qemu_img(), "info", "--output=json", path]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def test_an_empty_disk(tmp_path: Path) -> None:
    disk.create(tmp_path / "disk", 8192)
    found = info(tmp_path / "disk")
    assert (found["format"], found["virtual-size"]) == ("qcow2", 8192 << 20)
    assert (tmp_path / "disk").stat().st_size < 1 << 20


def test_overlays_name_their_backing_by_absolute_path_and_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("image, raw").write_bytes(bytes(1 << 20))
    disk.create(Path("first"), backing=Path("image, raw"))
    disk.create(Path("second"), 16, backing=Path("first"))
    first, second = info(tmp_path / "first"), info(tmp_path / "second")
    assert (first["backing-filename"], first["backing-filename-format"]) == (
        str(tmp_path / "image, raw"), "raw",
    )  # fmt: skip
    assert (second["backing-filename"], second["backing-filename-format"]) == (
        str(tmp_path / "first"), "qcow2",
    )  # fmt: skip
    assert (first["virtual-size"], second["virtual-size"]) == (1 << 20, 16 << 20)


@pytest.mark.parametrize("format", ["qcow2", "raw", "vmdk"])
def test_formats_are_found_out(tmp_path: Path, format: str) -> None:
    command = [disk.find_qemu_img(), "create", "-q", "-f", format, tmp_path / "image", "1M"]
    subprocess.run(command, check=True)
    assert disk.image_format(tmp_path / "image") == format


def test_a_backing_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"Could not open .*missing"):
        disk.create(tmp_path / "disk", backing=tmp_path / "missing")


def test_without_qemu_img_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "find_qemu", lambda: QemuBinary(tmp_path / "qemu", (10, 0, 0)))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as error:
        disk.create(tmp_path / "disk", 1)
    assert "qemu-utils" in error.value.hint


def test_the_one_beside_the_qemu_in_use_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "find_qemu", lambda: QemuBinary(tmp_path / "qemu", (10, 0, 0)))
    (tmp_path / "qemu-img").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-img").chmod(0o755)
    assert disk.find_qemu_img() == tmp_path / "qemu-img"
