"""The directories of runs: the last few stay, and those in use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from attest.errors import HostError, UsageError
from attest.support.concurrency import wait_all
from attest.support.run_dirs import held, new_run_directory, past_runs, runs_directory


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _runs(count: int) -> list[Path]:
    """Runs that have ended, the oldest first."""
    base = runs_directory()
    paths = [base / f"old-{number}" for number in range(count)]
    for number, path in enumerate(paths):
        path.mkdir(parents=True)
        (path / "events.jsonl").touch()
        os.utime(path, (number, number))
    return paths


def _run() -> None:
    with new_run_directory("test"):
        pass


@contextmanager
def _driver(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a run."""
    program = (
        "import sys; from pathlib import Path; from attest.support.run_dirs import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_the_oldest_of_more_than_20_go() -> None:
    old = _runs(22)
    with new_run_directory("a/b c") as path:
        assert path.name.startswith("a_b_c-")
        assert past_runs() == [path, *reversed(old[3:])]


def test_a_run_in_progress_stays_until_its_process_is_killed() -> None:
    oldest = _runs(22)[0]
    with _driver(oldest) as driver:
        _run()
        assert (oldest / "events.jsonl").exists()
        driver.kill()
        driver.wait()
        _run()
        assert not oldest.exists()


def test_a_run_is_held_from_its_start() -> None:
    with new_run_directory("first") as first:
        os.utime(first, (0, 0))
        _runs(22)
        _run()
        assert first.exists()
    os.utime(first, (0, 0))
    _run()
    assert not first.exists()


def test_runs_that_start_at_once_do_not_remove_each_other() -> None:
    _runs(20)
    count = 40
    started = Barrier(count)
    with ExitStack() as ends:

        def start(_: int) -> Path:
            started.wait(60)
            return ends.enter_context(new_run_directory("test"))

        paths = wait_all(range(count), start)
        assert len(set(paths)) == count
        assert [path for path in paths if not path.is_dir()] == []


def test_a_run_that_was_removed_meanwhile_can_be_held() -> None:
    with held(runs_directory() / "gone"):
        assert not runs_directory().exists()


def test_what_is_no_directory_is_no_run() -> None:
    runs = _runs(25)
    (runs_directory() / "notes").touch()
    _run()
    assert (runs_directory() / "notes").exists()
    assert len(past_runs()) == 20
    assert runs[-1] in past_runs()


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "attest").touch()
    with (
        pytest.raises(HostError, match="cannot make a directory for the run"),
        new_run_directory(""),
    ):
        pass


def test_one_run_at_a_time_has_a_directory_alone(tmp_path: Path) -> None:
    with held(tmp_path, alone=True):
        for alone in (True, False):
            with (
                pytest.raises(UsageError, match=f"{tmp_path} is in use by another run"),
                held(tmp_path, alone=alone),
            ):
                pass
    with _driver(tmp_path) as driver:
        with pytest.raises(UsageError, match="in use"), held(tmp_path, alone=True):
            pass
        driver.kill()
        driver.wait()
        with held(tmp_path, alone=True):
            pass
