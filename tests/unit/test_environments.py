"""Each command in an environment that lacks something: it works, or says in a line what to set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["run t.toml", "image ls", "cache gc", "resume"]
"""Those that touch the places; the test has no script, so that `run` ends before it starts one."""


@pytest.fixture
def test(tmp_path: Path) -> Path:
    (tmp_path / "t.toml").write_text('script = "t.py"\n[nodes.m]\nimage = "tiny"\n')
    return tmp_path


def attest(test: Path, command: str, redirections: str = "", **variables: str) -> tuple[int, str]:
    line = f"exec {sys.executable} -m attest {command} {redirections}"
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in variables.items()), "sh", "-c", line],
        cwd=test, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_closed_streams_change_nothing(test: Path, command: str) -> None:
    cache = str(test / "cache")
    usual, _ = attest(test, command, XDG_CACHE_HOME=cache)
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        code, said = attest(test, command, closed, XDG_CACHE_HOME=cache)
        assert (code, "Traceback" in said) == (usual, False), (closed, said)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "TMPDIR"])
@pytest.mark.parametrize("place", ["/proc/no", "/etc/passwd"])
def test_a_place_that_cannot_be_written_is_named(
    test: Path, command: str, variable: str, place: str
) -> None:
    (test / "t.py").write_text("m.start()\n")
    places = {"XDG_CACHE_HOME": str(test / "cache"), variable: place}
    code, said = attest(test, command, **places)
    assert "Traceback" not in said, said
    if code == 3:
        assert place in said
        assert variable in said
    elif command.startswith("run"):
        raise AssertionError((code, said))


@pytest.mark.parametrize("command", ["run --out out t.toml", "image build tiny"])
def test_an_image_store_that_cannot_be_written_is_named(test: Path, command: str) -> None:
    (test / "t.py").write_text("m.start()\n")
    code, said = attest(test, command, XDG_CACHE_HOME="/proc/no")
    assert code == 3, said
    assert "cannot make the image tiny: /proc/no: " in said
    assert "set XDG_CACHE_HOME" in said
    assert "Traceback" not in said


def test_a_reader_that_has_gone_is_no_error(test: Path) -> None:
    code, said = attest(test, "image ls", "2>&1 | head -c 0", XDG_CACHE_HOME=str(test / "cache"))
    assert (code, said) == (0, "")


_BREAKS = """
import os, sys
from attest.cli.command import exit_codes
reader, writer = os.pipe()
os.close(reader)
with exit_codes():
    os.write(int(sys.argv[1]) or writer, b"x")
"""


@pytest.mark.parametrize("descriptor", [1, 2])
def test_only_a_reader_of_its_output_may_go(descriptor: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outputs = [subprocess.PIPE, subprocess.PIPE]
    outputs[descriptor - 1] = writer
    command = [sys.executable, "-c", _BREAKS]
    gone = subprocess.run(
        [*command, str(descriptor)], stdout=outputs[0], stderr=outputs[1], check=False
    )
    os.close(writer)
    assert gone.returncode == 128 + signal.SIGPIPE
    broken = subprocess.run([*command, "0"], capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert "BrokenPipeError" in broken.stderr
