"""A Python that NixOS's driver runs with: the newest here, where that one is new enough."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

__all__ = ["Python", "choose", "require_import"]

_NAMES = (*(f"python3.{minor}" for minor in range(11, 20)), "python3")

_TELL = "import platform; print(platform.python_version())"

_COMPILE = """
import sys
for path in sys.argv[1:]:
    try:
        compile(open(path, "rb").read(), path, "exec")
    except SyntaxError as error:
        sys.exit(f"{path}:{error.lineno}: {error.msg}")
"""


class Python(NamedTuple):
    """One that is here."""

    version: Version
    path: str


def choose(checkout: Path) -> Python:
    """The newest Python on PATH that suits a driver; without one, exit and say what is missing.

    Args:
        checkout: The driver's directory.
    """
    project = _project(checkout)
    wanted = SpecifierSet(project.get("project", {}).get("requires-python", ""))
    here = _here()
    wrong = ""
    if suited := [python for python in here if python.version in wanted]:
        newest = max(suited)
        if not (wrong := _syntax_error(newest, checkout)):
            return newest
    found = ", ".join(str(python.version) for python in here) or "none"
    sys.exit(
        f"--nixos-driver: {checkout} needs Python {_needs(project)}, and found on PATH was {found}"
        f"{f' ({wrong})' if wrong else ''}: put such a Python on PATH, or name the driver of an "
        "older nixpkgs"
    )


def require_import(python: Path, checkout: Path) -> None:
    """Exit and say why, if a Python that has what a driver imports cannot import the driver.

    Args:
        python: Its path.
        checkout: The driver's directory.
    """
    imported = subprocess.run(
        [python, "-W", "ignore", "-c", "import test_driver"],
        env=os.environ | {"PYTHONPATH": str(checkout / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if imported.returncode:
        sys.exit(
            f"--nixos-driver: {python} cannot import {checkout}, "
            f"{imported.stderr.strip().splitlines()[-1]}: name the driver of another nixpkgs"
        )


def _needs(project: dict[str, Any]) -> str:
    """What a driver says that it is for: nixpkgs' own says so to ruff alone."""
    if wanted := project.get("project", {}).get("requires-python"):
        return str(wanted)
    target = project.get("tool", {}).get("ruff", {}).get("target-version")
    return f">=3.{target.removeprefix('py3')}" if target else "of a newer version"


def _project(checkout: Path) -> dict[str, Any]:
    for directory in (checkout, checkout / "src"):
        if (file := directory / "pyproject.toml").exists():
            return tomllib.loads(file.read_text())
    return {}


def _here() -> list[Python]:
    """The Pythons on PATH, from the oldest to the newest; a name alone may not run."""
    found = {}
    for name in _NAMES:
        if path := shutil.which(name):
            told = subprocess.run([path, "-c", _TELL], capture_output=True, text=True, check=False)
            if told.returncode == 0:
                version = Version(told.stdout.strip())
                found[version] = Python(version, path)
    return sorted(found.values())


def _syntax_error(python: Python, checkout: Path) -> str:
    """Where a Python does not understand a driver, and why; empty where it does."""
    sources = sorted((checkout / "src" / "test_driver").rglob("*.py"))
    compiled = subprocess.run(
        [python.path, "-W", "ignore", "-c", _COMPILE, *sources],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return compiled.stderr.strip()
