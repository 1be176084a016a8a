"""A machine in one file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attest.vmm.cloud_hypervisor.whole_state import read_devices, write_whole


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    path.write_text("{}")
    return path


def test_a_memory_comes_first(tmp_path: Path, devices: Path) -> None:
    memory, whole = tmp_path / "memory-ranges", tmp_path / "state"
    memory.write_bytes(b"m" * 4096)
    write_whole(whole, memory, devices)
    assert whole.read_bytes()[:4096] == b"m" * 4096
    assert not memory.exists()
    assert read_devices(whole) == b"{}"


def test_a_memory_elsewhere(tmp_path: Path, devices: Path) -> None:
    whole = tmp_path / "state"
    write_whole(whole, tmp_path / "missing", devices)
    assert whole.stat().st_size == 10
    assert read_devices(whole) == b"{}"


@pytest.mark.parametrize("size", [0, 7, 9])
def test_one_that_is_cut(tmp_path: Path, devices: Path, size: int) -> None:
    whole = tmp_path / "state"
    write_whole(whole, tmp_path / "missing", devices)
    os.truncate(whole, size)
    with pytest.raises(ValueError, match="is not whole"):
        read_devices(whole)
