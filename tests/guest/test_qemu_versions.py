"""Machines run with each QEMU that `make setup` has unpacked beside the installed one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.qemus import UNPACKED

TINY = Path(__file__).parents[2] / "examples/tiny/test.toml"


@pytest.mark.parametrize("qemu", UNPACKED, ids=lambda path: path.parents[1].name)
def test_a_machine_runs(qemu: Path) -> None:
    environment = {**os.environ, "ATTEST_QEMU": str(qemu)}
    result = subprocess.run(
        [sys.executable, "-m", "attest", "run", "--accel", "tcg", TINY],
        env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
