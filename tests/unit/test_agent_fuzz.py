"""The frame parser under pseudo-random bytes, and the binary's own options."""

import subprocess
from pathlib import Path

import pytest

from tests.unit.agent_client import SOURCES, build, sanitized_agent

CORPUS = SOURCES / "fuzz" / "corpus"


@pytest.mark.parametrize("seed", [1, 20_261_124])
def test_frame_parser(seed: int) -> None:
    build("build/fuzz-replay")
    done = subprocess.run(
        [SOURCES / "build/fuzz-replay", CORPUS, "500000", str(seed)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(list(CORPUS.iterdir()))} files and 50" in done.stdout


def test_version() -> None:
    done = subprocess.run([sanitized_agent(), "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("attest-agent ")
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--unix"], ["--unix", "a", "b"]])
def test_usage(arguments: list[str]) -> None:
    done = subprocess.run([sanitized_agent(), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_a_socket_that_cannot_be(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "such", tmp_path / ("x" * 200)):
        done = subprocess.run([sanitized_agent(), "--unix", path], capture_output=True, text=True)
        assert done.returncode == 1
        assert str(path) in done.stderr
