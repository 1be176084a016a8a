"""The examples pass, as their readers run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

LONG: Final = {"etcd", "keepalived", "nfs", "podman", "postgresql"}
"""Those that `make test-long` runs, and `make test` does not."""

_EXAMPLES: Final = [
    pytest.param(path, id=name, marks=pytest.mark.long if name in LONG else ())
    for path in sorted(Path(__file__).parents[2].glob("examples/*/test.toml"))
    for name in [path.parent.name]
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("manifest", _EXAMPLES)
def test_an_example_passes(manifest: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "attest", "run", str(manifest)],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
