"""Packages that only some commands need, and how whoever runs this attest gets them."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["how_to_install"]


def how_to_install(extra: str, package: Path = Path(__file__).parents[1]) -> str:
    """What to do to have the packages of an extra, as ``pyproject.toml`` calls it.

    Args:
        extra: The extra.
        package: Where attest is.
    """
    root = package.parents[1]
    if package.is_relative_to("/nix/store"):
        return f"add attest's `optional-dependencies.{extra}` to the Python that Nix makes for it"
    if (root / "tools/setup.py").is_file():
        return f"make -C {root} setup"
    return f"{sys.executable} -m pip install 'attest-vm[{extra}]'"
