"""Where the descriptions of VMMs' APIs are, and what a stand-in needs around it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attest.image.model import Image
from attest.net.cell import Cell
from tests.contract.server import Bench


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """A real one: a VMM is started through it, and dies with it."""
    cell = Cell(tmp_path_factory.mktemp("cell"))
    yield cell
    cell.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """What the stand-ins of a test share with it; in the end, all requests were as described."""
    directory = tmp_path / "bench"
    directory.mkdir()
    monkeypatch.setenv("ATTEST_STANDIN", str(directory))
    bench = Bench(directory)
    yield bench
    assert bench.mistakes == []


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """Makes an executable of one of the stand-ins here, by its module's name."""

    def make(module: str) -> Path:
        path = tmp_path / module
        root = shlex.quote(str(Path(__file__).parents[2]))
        words = [sys.executable, "-m", f"{__package__}.{module}"]
        path.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}\n"
            f'exec {shlex.join(words)} "$@"\n'
        )
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def image(tmp_path: Path) -> Image:
    path = tmp_path / "image"
    path.mkdir()
    for name in ("vmlinuz", "vmlinux", "initrd", "root.erofs"):
        (path / name).touch()
    return Image(
        digest="0" * 64, name="debian", arch="x86_64", path=path, kernel=path / "vmlinuz",
        vmlinux=path / "vmlinux", initrd=path / "initrd", root=path / "root.erofs",
        cmdline=("quiet",), init="systemd",
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a ``description`` meets each of those that begin as its module says."""
    if "description" not in metafunc.fixturenames:
        return
    vmm = metafunc.module.DESCRIPTIONS
    directory = os.environ.get("ATTEST_VMM_SPECS")
    if not directory:
        reason = f"set ATTEST_VMM_SPECS to a directory with {vmm}*.yaml, the API's description"
        skipped = pytest.param(None, marks=pytest.mark.skip(reason=reason))
        metafunc.parametrize("description", [skipped])
        return
    found = sorted(Path(directory).glob(f"{vmm}*.yaml"))
    if not found:
        raise pytest.UsageError(f"ATTEST_VMM_SPECS: {directory} holds no {vmm}*.yaml")
    metafunc.parametrize("description", found, ids=lambda path: path.stem)
