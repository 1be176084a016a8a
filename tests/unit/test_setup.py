"""The checkout's set-up: package sources with backports, and what is found missing."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from debian import with_backports
from progress import PipProgress, Progress, run

ROOT = Path(__file__).parents[2]

ONE_LINE = """\
# the mirror
deb http://mirror.example/debian bookworm main contrib
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/some.gpg] http://mirror.example/debian bookworm-updates main
deb http://mirror.example/security bookworm-security main
deb http://vendor.example/node nodistro main
"""

DEB822 = """\
Types: deb deb-src
# why this mirror
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://vendor.example/tools
Suites: stable
Components: main
"""


def sources(etc: Path, name: str, text: str) -> str:
    """What becomes of a file in `sources.list.d`; empty when nothing does."""
    directory = etc / "sources.list.d"
    directory.mkdir()
    (directory / name).write_text(text)
    return with_backports(etc, "bookworm").get(name, "")


def test_one_line_sources(tmp_path: Path) -> None:
    assert sources(tmp_path, "debian.list", ONE_LINE).splitlines() == [
        "deb http://mirror.example/debian bookworm main contrib",
        "deb http://mirror.example/debian bookworm-backports main contrib",
        "deb [arch=amd64 signed-by=/etc/some.gpg] http://mirror.example/debian "
        "bookworm-updates main",
        "deb http://mirror.example/security bookworm-security main",
    ]


def test_deb822_sources(tmp_path: Path) -> None:
    assert sources(tmp_path, "debian.sources", DEB822).splitlines() == [
        "Types: deb deb-src",
        "URIs: http://mirror.example/debian",
        "Suites: bookworm bookworm-updates bookworm-backports",
        "Components: main",
        "Signed-By:",
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " abc",
    ]


def test_backports_that_are_there_are_not_added_again(tmp_path: Path) -> None:
    text = DEB822.replace("bookworm-updates", "bookworm-backports")
    assert "Suites: bookworm bookworm-backports\n" in sources(tmp_path, "debian.sources", text)


def test_sources_of_other_suites_are_left_out(tmp_path: Path) -> None:
    vendor = "deb http://vendor.example/node nodistro main\n"
    assert sources(tmp_path, "vendor.list", vendor) == ""


def test_the_machines_own_sources_file_counts(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    assert list(with_backports(tmp_path, "bookworm")) == ["sources.list"]


def test_without_debian_it_says_what_is_missing_and_what_for(tmp_path: Path) -> None:
    setup = [sys.executable, ROOT / "tools/setup.py", "run"]
    environment = {"PATH": "/nonexistent", "HOME": str(tmp_path)}
    result = subprocess.run(setup, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "runs the machines" in result.stdout
    assert "not a Debian system" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["everything"]])
def test_wrong_usage(arguments: list[str]) -> None:
    setup = [sys.executable, ROOT / "tools/setup.py", *arguments]
    result = subprocess.run(setup, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_takes_minutes_is_told(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    told = Progress(stream)
    pip = PipProgress(2, lambda text: told.tell("Python packages", text))
    for line in (
        "Collecting click==8.5.1 (from -r run.txt (line 1))",
        "  Downloading click-8.5.1-py3-none-any.whl.metadata (2.6 kB)",
        "Downloading mypy-2.4.1-cp311-cp311-manylinux.whl (13.5 MB)",
        "Installing collected packages: click, mypy",
    ):
        pip.line(line)
    told.tell("Python packages", "")
    if is_terminal:
        shown = stream.getvalue().split("\r\033[K")
        assert shown[-3:] == [
            "Python packages: 1 of 2 packages, 13.5 MB downloaded",
            "Python packages: installing 2 packages",
            "",
        ]
    else:
        assert stream.getvalue() == "  Python packages: 1 of 2 packages, 0.0 MB downloaded\n"


def test_the_output_of_a_command_is_followed() -> None:
    lines: list[str] = []
    ended = run(["sh", "-c", "echo one; echo two >&2; exit 3"], lines.append, env=os.environ)
    assert (ended, lines) == ((3, "one\ntwo\n"), ["one", "two"])
