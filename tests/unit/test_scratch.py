"""The directory of temporary files: swept when its owner has gone, and nobody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attest.errors import HostError
from attest.support.scratch import Scratch


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"attest-{os.getuid()}"


def test_what_a_dead_owner_left_is_swept_and_what_a_living_one_uses_is_not(base: Path) -> None:
    (base / "stale" / "inside").mkdir(parents=True)
    first = Scratch()
    assert list(base.iterdir()) == []  # a driver that is killed now leaves nothing
    first.create()
    second = Scratch()
    second.create()
    assert set(base.iterdir()) == {first.path, second.path}
    first.close()
    second.close()
    assert list(base.iterdir()) == []


def test_nothing_is_swept_through_a_link(base: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "precious").mkdir(parents=True)
    base.symlink_to(tmp_path / "home")
    with pytest.raises(HostError, match="TMPDIR"):
        Scratch()
    assert (tmp_path / "home" / "precious").is_dir()
