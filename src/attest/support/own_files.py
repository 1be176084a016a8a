"""Which Python files are a user's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["INSTALLED", "is_own"]

_NOT_OWN: Final = (os.path.dirname(os.__file__), Path(__file__).parents[1])
INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
"""The names of directories of installed packages."""


def is_own(file: Path) -> bool:
    """Whether it is neither Python's nor attest's nor installed."""
    path = Path(os.path.abspath(file))
    if INSTALLED.intersection(path.parts):
        return False
    return not any(path.is_relative_to(place) for place in _NOT_OWN)
