"""A Nix for the tests, and the QEMUs that they run with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from tests.nix.isolated_nix import Nix
from tests.qemus import UNPACKED


@pytest.fixture(scope="session")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nix]:
    if not (shutil.which("nix-build") and Path("/usr/bin/bash-static").exists()):
        pytest.skip("there is no Nix here: tools/setup.py has said why")
    ImageStore().build(load_recipe("tiny", relative_to=Path()))
    nix = Nix(tmp_path_factory.mktemp("nix"))
    yield nix
    nix.remove()


@pytest.fixture(
    params=["", *map(str, UNPACKED)],
    ids=lambda path: Path(path).parts[-3] if path else "installed",
)
def qemu(request: pytest.FixtureRequest) -> str:
    """Each QEMU that there is: its path, or for the installed one nothing."""
    path: str = request.param
    return path
