"""Which run is meant, and how it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attest.cluster.archive import (
    archive_path,
    find_archive,
    is_archived,
    remove_archive,
    resume_command,
)
from attest.errors import UsageError
from attest.support.run_dirs import runs_directory


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _run(name: str, age: int, *, kept: bool = True) -> Path:
    run = runs_directory() / name
    archive_path(run).mkdir(parents=True)
    if kept:
        (archive_path(run) / "checkpoint.json").touch()
    os.utime(run, (1000 - age, 1000 - age))
    return run


def test_without_a_name_it_is_the_last_run_that_was_kept() -> None:
    _run("old", 30)
    last = _run("last", 20)
    _run("passed", 10, kept=False)
    assert find_archive(None) == archive_path(last)


def test_a_name_or_the_unique_beginning_of_one_will_do() -> None:
    first, second = _run("web-1", 10), _run("web-10", 20)
    other = _run("db-1", 30)
    _run("db-2", 5, kept=False)
    assert find_archive("db") == archive_path(other)
    assert find_archive("web-10") == archive_path(second)
    assert find_archive("web-1") == archive_path(first), (
        "a whole name, though another one begins with it"
    )
    with pytest.raises(UsageError, match="the beginning of several runs: web-1, web-10"):
        find_archive("web")


def test_a_directory_anywhere_will_do(tmp_path: Path) -> None:
    (tmp_path / "out" / "checkpoint").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint" / "checkpoint.json").touch()
    assert find_archive(str(tmp_path / "out")) == tmp_path / "out" / "checkpoint"


def test_what_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(UsageError, match=r"of any run\n.*--snapshot-on-failure"):
        find_archive(None)
    _run("web-1", 10)
    with pytest.raises(UsageError, match=r"of a run `db`\n.*they were of: web-1"):
        find_archive("db")


def test_the_command_names_a_run_or_its_directory(tmp_path: Path) -> None:
    assert resume_command(runs_directory() / "web-1") == "attest resume web-1"
    assert resume_command(tmp_path / "my out") == f"attest resume '{tmp_path}/my out'"


def test_only_what_was_kept_is_forgotten(tmp_path: Path) -> None:
    run, other = _run("web-1", 10), _run("web-2", 10, kept=False)
    remove_archive(run)
    remove_archive(other)
    assert not archive_path(run).exists()
    assert archive_path(other).exists(), "somebody else's"
    assert not is_archived(run)
