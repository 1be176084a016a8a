"""What the kernel says about processes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["children"]


def children(pid: int) -> list[int]:
    """The living children of a single-threaded process; none when it has gone."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in listing.read_text().split()]
    except FileNotFoundError:  # it has gone, or the kernel has no CONFIG_PROC_CHILDREN
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _parent(entry) == pid]


def _parent(entry: Path) -> int:
    try:
        # Field 4 of proc(5) stat; the name in field 2 may hold spaces and parentheses.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
