"""What is copied into the lab for a run, since it changes with the checkout.

site/       the wheel under test, its locked dependencies, and pytest with its own
cache/      attest's cache: what the `tiny` image is made of, so that nothing is built
bin/        the other VMMs that the environment names
checkout/   the tests, pytest's configuration, and the benchmarks
results/    empty
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore

__all__ = ["PROGRAMS", "fill", "programs"]

PROGRAMS: Final = ("ATTEST_FIRECRACKER", "ATTEST_JAILER", "ATTEST_CLOUD_HYPERVISOR")
"""Variables that name executables; those that are set are taken along."""

_ROOT: Final = Path(__file__).resolve().parents[1]
_TESTS: Final = (
    "pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/leftovers.py", "tests/kvm",
    "tests/obtaining.py", "tests/lasting.py", "tests/lasting.toml", "tests/survival.py",
    "docs/machine-state.md", "bench",
)  # fmt: skip


def fill(payload: Path, lab: Image) -> None:
    """Make the payload in an empty directory.

    Args:
        payload: The directory.
        lab: The lab's image.

    Raises:
        subprocess.CalledProcessError: The wheel, or a dependency of its, could not be had; what
            was printed says why.
        HostError: The tiny image could not be built.
        OSError: A program that the environment names cannot be read.
    """
    _install(payload / "site", _python_version(lab), payload / "wheel")
    images = ImageStore(payload / "cache/attest/images")
    for recipe in "tiny", str(_ROOT / "tests/lasting.toml"):
        ImageStore().give(load_recipe(recipe), images)
    (payload / "results").mkdir()
    (payload / "bin").mkdir()
    for program in programs().values():
        shutil.copy(program, payload / "bin")
    for name in _TESTS:
        target = payload / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(_ROOT / name, target)


def programs() -> dict[str, Path]:
    """The executables that the environment names, by their variables."""
    return {name: Path(os.environ[name]) for name in PROGRAMS if os.environ.get(name)}


def _python_version(lab: Image) -> str:
    """The version of Python in an image, such as ``3.11``."""
    packages = dict(line.split(" ", 1) for line in ImageStore().packages(lab))
    match = re.match(r"\d+\.\d+", packages["python3"])
    assert match is not None, packages["python3"]
    return match[0]


def _install(site: Path, python_version: str, wheel: Path) -> None:
    """Make a directory for ``PYTHONPATH`` here: in the lab, pip would take minutes."""
    _python("build", "--wheel", "--no-isolation", "--outdir", wheel, _ROOT)
    install: list[str | Path] = [
        "pip", "--disable-pip-version-check", "install", "--target", site,
        "--python-version", python_version, "--only-binary=:all:",
    ]  # fmt: skip
    _python(*install, "--require-hashes", "--requirement", _ROOT / "requirements/kvm.txt")
    _python(*install, "--no-deps", *wheel.glob("*.whl"))
    shutil.rmtree(wheel)


def _python(*module: str | Path) -> None:
    subprocess.run(
        [sys.executable, "-m", *module],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=True,
    )  # fmt: skip
