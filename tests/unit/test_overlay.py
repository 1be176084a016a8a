"""Overlays that attest writes itself, held to what QEMU's tools say of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from attest.disk.overlay import write_overlay
from attest.disk.qemu_img import chain, create


def _run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("mebibytes", [1, 8192, 9_000_000])
def test_it_is_what_qemu_takes_for_one(tmp_path: Path, mebibytes: int) -> None:
    backing, overlay = tmp_path / "a \N{SNOWMAN}.qcow2", tmp_path / "overlay"
    create(backing, mebibytes)
    write_overlay(overlay, backing)
    told = json.loads(_run("qemu-img", "check", "--output=json", overlay))
    assert told["check-errors"] == 0
    assert told.get("leaks", 0) == told.get("corruptions", 0) == 0
    info = json.loads(_run("qemu-img", "info", "--output=json", overlay))
    assert info["virtual-size"] == mebibytes << 20
    assert [(each.path, each.format) for each in chain(overlay)] == [
        (overlay, "qcow2"), (backing, "qcow2"),
    ]  # fmt: skip
    assert overlay.stat().st_blocks * 512 < 64 << 10


def test_what_is_written_to_it_is_not_in_the_other_one(tmp_path: Path) -> None:
    backing, overlay = tmp_path / "backing", tmp_path / "overlay"
    create(backing, 64)
    _run("qemu-io", "-c", "write -P 1 0 1M", backing)
    before = backing.read_bytes()
    write_overlay(overlay, backing)
    _run("qemu-io", "-c", "read -P 1 0 1M", "-c", "write -P 2 512k 1M", overlay)
    _run("qemu-io", "-c", "read -P 1 0 512k", "-c", "read -P 2 512k 1M",
         "-c", "read -P 0 2M 1M", overlay)  # fmt: skip
    assert json.loads(_run("qemu-img", "check", "--output=json", overlay))["check-errors"] == 0
    assert backing.read_bytes() == before


def test_what_cannot_be_a_backing_file_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(4096))
    with pytest.raises(ValueError, match="raw is no qcow2 file"):
        write_overlay(tmp_path / "overlay", raw)
    assert not (tmp_path / "overlay").exists()
