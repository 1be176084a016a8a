"""`attest cache`, with small files in place of snapshots."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attest.cli.command import _attest
from attest.snapshot.cache import Entry, SnapshotCache
from attest.snapshot.shape import Shape
from tests.obtaining import obtain


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnapshotCache]:
    """The cache that the command finds, as a run has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = SnapshotCache()
    yield cache
    cache.close()


def attest_cache(*arguments: str) -> Result:
    return CliRunner().invoke(_attest, ["cache", *arguments])


def put(cache: SnapshotCache, image: str, *, days: float = 0) -> Entry:
    """An entry that was used last so many days ago; it stays in use until ``cache.close``."""

    def fill(into: Path) -> None:
        (into / "memory").write_bytes(bytes(1 << 20))
        (into / "state").write_bytes(b"state")

    shape = Shape(
        image=image, image_name=image, vmm="QEMU", accelerator="tcg", cpu="a processor",
        machine="microvm", memory=1, vcpus=2, nics=1,
    )  # fmt: skip
    entry = obtain(
        cache, shape, fill, stop=threading.Event(), waiting=pytest.fail, broken=pytest.fail
    )
    for thread in threading.enumerate():
        if thread.name == "sync a snapshot":  # which holds the entry meanwhile
            thread.join()
    then = time.time() - days * 24 * 3600
    os.utime(entry.path / "entry.json", (then, then))
    return entry


def key(entry: Entry) -> str:
    return entry.path.name[:12]


def test_ls_tells_what_there_is_the_one_used_last_first(cache: SnapshotCache) -> None:
    old, new = put(cache, "web", days=2), put(cache, "tiny")
    result = attest_cache("ls")
    assert result.exit_code == 0
    titles, first, second = result.stdout.splitlines()
    assert titles.split() == [
        "KEY", "IMAGE", "MEMORY", "VCPUS", "ACCEL", "STATE", "ON", "DISK", "LAST", "USED", "MADE",
    ]  # fmt: skip
    for line, entry, image in ((first, new, "tiny"), (second, old, "web")):
        told = next(each for each in cache.entries() if each.path == entry.path)
        assert line.split() == [
            key(entry), image, "1", "MiB", "2", "tcg", "booted", "1", "MiB",
            *minute(told.last_used), *minute(told.made),
        ]  # fmt: skip


def minute(seconds: float) -> list[str]:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)).split()


def test_an_empty_cache_is_no_error(cache: SnapshotCache) -> None:
    for verb, words in (("ls", "KEY"), ("gc", "0 removed"), ("clear", "0 removed"), ("verify", "")):
        result = attest_cache(verb)
        assert result.exit_code == 0
        assert words in result.output


def test_gc_tells_what_it_removes_and_why(
    cache: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(cache, "old", days=8)
    kept = put(cache, "kept", days=6)
    (cache.directory / "making" / ("5" * 64)).mkdir()
    cache.close()
    result = attest_cache("gc", "--days", "7")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "removed ? 555555555555: left by a run that was killed",
        f"removed old {key(old)}: not used for long",
    ]
    assert "2 removed" in result.stderr
    full = shutil.disk_usage(cache.directory)._replace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    result = attest_cache("gc", "--days", "7")
    assert result.stdout == f"removed kept {key(kept)}: the cache was beyond its limit\n"
    assert cache.entries() == []


def test_gc_keeps_what_was_used_within_a_month(cache: SnapshotCache) -> None:
    put(cache, "kept", days=29)
    old = put(cache, "old", days=31)
    cache.close()
    assert attest_cache("gc").stdout == f"removed old {key(old)}: not used for long\n"


def test_clear_tells_what_stays_because_a_run_uses_it(cache: SnapshotCache) -> None:
    used = put(cache, "used")
    other = SnapshotCache()
    idle = put(other, "idle", days=1)
    other.close()
    (cache.directory / "making" / ("5" * 64)).mkdir()
    result = attest_cache("clear")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "removed ? 555555555555: left by a run that was killed",
        f"kept    used {key(used)}: a run uses it",
        f"removed idle {key(idle)}",
    ]
    assert "2 removed" in result.stderr
    assert [each.path for each in cache.entries()] == [used.path]


def test_verify_tells_and_removes_what_is_damaged(cache: SnapshotCache) -> None:
    good, bad = put(cache, "good"), put(cache, "bad")
    assert attest_cache("verify").exit_code == 0
    cache.close()
    os.truncate(bad.path / "memory", 5)
    result = attest_cache("verify")
    assert result.exit_code == 1
    assert sorted(result.stdout.splitlines()) == sorted(
        [
            f"{key(good)}  ok",
            f"{key(bad)}  damaged, removed: memory: 5 bytes, 1048576 were written",
        ]
    )
    assert [entry.path for entry in cache.entries()] == [good.path]
    assert attest_cache("verify").exit_code == 0
