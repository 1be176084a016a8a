"""What connects machines: the cell that a cluster lives in, and the fabrics inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

__all__ = ["helper"]


def helper(name: Literal["relay", "vde"]) -> list[str]:
    """The command line that starts a module of this package as a process of its own.

    It needs no more than the standard library: an interpreter that is started by itself need not
    find attest where this one did, as a Nix package's does not.
    """
    return [sys.executable, "-IS", str(Path(__file__).with_name(f"{name}.py"))]
