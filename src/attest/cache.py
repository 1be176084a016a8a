"""Where large and lasting things live: images, snapshots, kept runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["cache_dir"]


_NO_HOME: Final = Path("/homeless-shelter")
"""What Nix calls the home of a build, so that nothing finds one."""


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/attest``, by default ``~/.cache/attest``.

    A build by Nix has no home, and by default a cache of its own in its working directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else _home() / ".cache") / "attest"


def _home() -> Path:
    home = Path.home()
    return Path(os.environ.get("NIX_BUILD_TOP") or home) if home == _NO_HOME else home
