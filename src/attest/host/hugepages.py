"""The host's reserved 2 MiB pages, from which a machine can take its memory.

The pool is the kernel's and fixed: an administrator fills it. What is not there is missing before
the start, not when the guest touches its memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from attest.errors import HostError

__all__ = ["check_hugepages"]

_POOL: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_COUNTS: Final = ("nr", "free", "resv")
_MEMINFO: Final = Path("/proc/meminfo")
_PAGE_MIB: Final = 2


def check_hugepages(needed_mib: int, *, pool: Path = _POOL, meminfo: Path = _MEMINFO) -> None:
    """Require that enough 2 MiB pages are free.

    Args:
        needed_mib: MiB of memory that will be taken from them.
        pool: The directory in which the kernel tells of these pages.
        meminfo: The file in which it tells of them where that directory cannot be seen.

    Raises:
        HostError: There are too few; the hint is the command that reserves the others.
    """
    needed = -(-needed_mib // _PAGE_MIB)
    if needed == 0:
        return
    pages = _from_pool(pool) if pool.is_dir() else _from_meminfo(meminfo)
    if pages is None:
        raise HostError("this host's kernel has no 2 MiB pages", hint="run without hugepages")
    if pages.free < needed:
        raise HostError(
            f"huge pages: {needed} pages of 2 MiB are needed, {pages.free} are free",
            hint=f"as root: sysctl -w vm.nr_hugepages={pages.total + needed - pages.free}",
        )


class _Pages(msgspec.Struct, frozen=True):
    """Numbers of pages; a free one is claimed by nobody."""

    total: int
    free: int


def _from_pool(pool: Path) -> _Pages:
    # A page that a process has claimed and not yet touched still counts as free.
    counts = {name: int((pool / f"{name}_hugepages").read_text()) for name in _COUNTS}
    return _Pages(counts["nr"], counts["free"] - counts["resv"])


def _from_meminfo(meminfo: Path) -> _Pages | None:
    # In the sandbox of a Nix build there is no /sys; here the kernel tells of one size of pages.
    fields = dict(re.findall(r"^(\w+):\s+(\d+)", meminfo.read_text(), re.MULTILINE))
    if fields.get("Hugepagesize") != str(_PAGE_MIB << 10):
        return None
    total, free, claimed = (int(fields[f"HugePages_{name}"]) for name in ("Total", "Free", "Rsvd"))
    return _Pages(total, free - claimed)
