"""Images that another host has built, as docs/ci.md has a CI carry them: imported, and booted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.support.paths import cache_dir

PAGE = Path(__file__).parents[2] / "docs/ci.md"
MANIFEST = """
script = "assert machine.succeed('echo $((6 * 7))') == '42\\\\n'"
[nodes.machine]
image = "tiny"
memory = 96
"""


def gitlab_script() -> str:
    """What the page has GitLab's runner do."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (job,) = (job for block in blocks if (job := yaml.safe_load(block).get("vm-tests")))
    return "set -e\n" + "\n".join(job["script"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with a test, and `attest` among its programs."""
    for name in ("tests", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "tests/test.toml").write_text(MANIFEST)
    program = tmp_path / "bin/attest"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m attest "$@"\n')
    program.chmod(0o755)
    return tmp_path


def job(checkout: Path, cache: Path) -> str:
    """What the commands of a job say, on a host with such a cache."""
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    result = subprocess.run(
        ["sh", "-c", gitlab_script()], cwd=checkout, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_the_next_job_boots_what_the_first_has_built(checkout: Path) -> None:
    there = ImageStore().build(load_recipe("tiny"))
    first = job(checkout, cache_dir().parent)
    assert f"exported tiny {there.digest[:12]}" in first
    assert "passed" in first
    second = job(checkout, checkout / "empty")
    assert f"imported tiny {there.digest[:12]}" in second
    assert "passed" in second
    assert "built" not in second
    (image,) = ImageStore(checkout / "empty/attest/images").images()
    assert image.vmlinux.read_bytes() == there.vmlinux.read_bytes()
