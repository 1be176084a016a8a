"""Where large and lasting things live: images, snapshots, kept runs."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["MONTH", "cache_dir", "mark_used"]

MONTH: Final = 30 * 24 * 3600.0
"""Seconds after which what nobody has used is not kept."""

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


def mark_used(entry: Path, *, max_age: float = MONTH) -> None:
    """Say that an entry of the cache is used now, and remove those beside it that nobody uses.

    What cannot be removed stays.

    Args:
        entry: A file or directory.
        max_age: Seconds for which the others were not marked.
    """
    oldest = time.time() - max_age
    with suppress(OSError):  # a cache that this user may only read
        os.utime(entry)
        for other in entry.parent.iterdir():
            if other.name != entry.name and other.lstat().st_mtime < oldest:
                _remove(other)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
