"""What the kernel says about processes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["children", "descendants", "thread_time"]


def children(pid: int) -> list[int]:
    """The living children of a single-threaded process; none when it has gone."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in listing.read_text().split()]
    except FileNotFoundError:  # it has gone, or the kernel has no CONFIG_PROC_CHILDREN
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _parent(entry) == pid]


def descendants(pid: int) -> list[int]:
    """The living children of a process, their children, and so on; parents come first."""
    found = children(pid)
    for each in found:
        found.extend(children(each))
    return found


def thread_time(pid: int, names: str) -> int:
    """The processor time of some threads of a process, in nanoseconds; 0 when there are none.

    Args:
        pid: The process.
        names: What the names of the threads begin with.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with suppress(OSError):  # it has gone
            if (task / "comm").read_text().startswith(names):
                # The first field of schedstat, see Documentation/scheduler/sched-stats.rst.
                total += int((task / "schedstat").read_text().split()[0])
    return total


def _parent(entry: Path) -> int:
    try:
        # Field 4 of proc(5) stat; the name in field 2 may hold spaces and parentheses.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
