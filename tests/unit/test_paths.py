"""What is not used any more is not kept, of what other programs remember for attest, too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from attest.check import type_check
from attest.cli.flake_tests import find_test
from attest.support.paths import MONTH, mark_used

_NIX = """#!/bin/sh
while [ "$1" != --out-link ]; do shift; done
echo '{"nodes": {"web": {}}}' > "$2"
echo pass > "$2-1"
"""


def aged(path: Path, seconds: float) -> Path:
    """A directory with a file in it, last used so long ago."""
    path.mkdir(parents=True)
    (path / "file").touch()
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_what_nobody_has_used_for_long_goes(tmp_path: Path) -> None:
    old, recent = aged(tmp_path / "old", MONTH + 60), aged(tmp_path / "recent", MONTH - 60)
    used = aged(tmp_path / "used", 2 * MONTH)
    elsewhere = aged(tmp_path.parent / f"{tmp_path.name}-elsewhere", 0)
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    os.utime(link, (0, 0), follow_symlinks=False)
    mark_used(used)
    assert sorted(tmp_path.iterdir()) == [recent, used]
    assert (elsewhere / "file").exists()
    assert not old.exists()
    mark_used(recent)
    assert used.exists()


def test_nothing_happens_where_there_is_nothing(tmp_path: Path) -> None:
    mark_used(tmp_path / "missing" / "entry")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/attest"


def test_tests_of_flakes(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nix = tmp_path / "bin/nix"
    nix.parent.mkdir()
    nix.write_text(_NIX)
    nix.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nix.parent}:{os.environ['PATH']}")
    flake = tmp_path / "flake"
    flake.mkdir()
    (flake / "flake.nix").touch()
    old = aged(cache / "nix/old", MONTH + 60)
    first = find_test(f"{flake}#one").manifest.parent
    os.utime(first, (0, 0))
    assert find_test(f"{flake}#one").remembered
    second = find_test(f"{flake}#two").manifest.parent
    assert sorted((cache / "nix").iterdir()) == sorted([first, second])
    assert not old.exists()


def test_what_mypy_remembers_for_another_python(cache: Path) -> None:
    old = aged(cache / "mypy/3.1", MONTH + 60)
    assert type_check._cache() == str(cache / "mypy")
    assert not old.exists()
    (own,) = (cache / "mypy").iterdir()
    os.utime(own, (0, 0))
    type_check._cache()
    mark_used(cache / "mypy/another")
    assert own.exists()
