"""A whole run, without machines, whose logs cannot be written: what it says, and its exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_DRIVER = "from attest.cli.nixos_driver import main; main()"


def _run(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    (directory / "test.py").write_text(script)
    return subprocess.run(
        [sys.executable, "-c", _DRIVER, "-o", directory, "--junit-xml", "report.xml",
         directory / "test.py"],
        env={**os.environ, "XDG_CACHE_HOME": str(directory / "cache")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("events.jsonl", "report.xml"):
        (tmp_path / name).symlink_to("/dev/full")
    return tmp_path


def _told_once(text: str, out: Path) -> None:
    assert text.count(f"warning: {out}/events.jsonl is incomplete: [Errno 28]") == 1
    assert text.count(f"warning: the report {out}/report.xml was not written: No space left") == 1
    assert "Traceback" not in text


def test_a_test_that_passes_has_passed(out: Path) -> None:
    ran = _run(out, "log.info('said')\nlog.info('said again')")
    _told_once(ran.stderr, out)
    assert "said again" in ran.stderr
    assert "test: passed" in ran.stderr
    assert ran.returncode == 0


def test_a_test_that_fails_has_failed_for_its_own_reason(out: Path) -> None:
    ran = _run(out, "assert 1 == 2, 'one is not two'")
    _told_once(ran.stderr, out)
    assert "one is not two" in ran.stderr
    assert "test: FAILED" in ran.stderr
    assert ran.returncode == 1


def test_a_log_that_cannot_be_made_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    ran = _run(tmp_path, "log.info('said')")
    assert f"cannot write {tmp_path}/events.jsonl: Is a directory" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "said" not in ran.stderr
    assert ran.returncode == 3


_ON_A_FULL_DISK = 'mount -t tmpfs -o nr_inodes=2 none "$1" && mkdir "$1/it" && shift && exec "$@"'


def _on_a_full_disk(place: Path, variable: str, *command: str) -> subprocess.CompletedProcess[str]:
    place.mkdir()
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _ON_A_FULL_DISK, "sh",
         place, sys.executable, *command],
        env={**os.environ, variable: str(place)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "command", "verdict"),
    [
        ("TMPDIR", "from attest.cli.nixos_driver import main; main()", "could not run; ended"),
        ("XDG_CACHE_HOME", "from attest.cli.nixos_driver import main; main()", "passed in"),
        ("XDG_CACHE_HOME", "from attest.cli import main; main()", ""),
    ],
)
def test_a_full_disk_is_the_reason(
    tmp_path: Path, variable: str, command: str, verdict: str
) -> None:
    (tmp_path / "test.py").write_text("log.info('said')")
    arguments = ["-o", str(tmp_path), str(tmp_path / "test.py")] if verdict else ["cache", "gc"]
    ran = _on_a_full_disk(tmp_path / "full", variable, "-c", command, *arguments)
    assert "Traceback" not in ran.stderr
    assert ran.returncode == (0 if verdict == "passed in" else 3), ran.stderr
    if verdict:
        assert f"test: {verdict}" in ran.stderr
    if ran.returncode:
        assert f"{tmp_path}/full" in ran.stderr
        assert re.search(rf": No space left on device\n  hint: .*{variable}", ran.stderr), (
            ran.stderr
        )
