"""The examples pass, as their readers run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*/test.toml"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("manifest", _EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_passes(manifest: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "attest", "run", str(manifest)],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
