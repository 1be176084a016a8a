"""The host's reserved 2 MiB pages, from which a machine can take its memory.

The pool is the kernel's and fixed: an administrator fills it. What is not there is missing before
the start, not when the guest touches its memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attest.errors import HostError

__all__ = ["check_hugepages"]

_POOL: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_PAGE_MIB: Final = 2


def check_hugepages(needed_mib: int) -> None:
    """Require that enough 2 MiB pages are free.

    Args:
        needed_mib: MiB of memory that will be taken from them.

    Raises:
        HostError: There are too few; the hint is the command that reserves the others.
    """
    needed = -(-needed_mib // _PAGE_MIB)
    if needed == 0:
        return
    if not _POOL.is_dir():
        raise HostError("this host's kernel has no 2 MiB pages", hint="run without hugepages")
    # A page that a process has claimed and not yet touched still counts as free.
    free = _pool("free") - _pool("resv")
    if free < needed:
        raise HostError(
            f"huge pages: {needed} pages of 2 MiB are needed, {free} are free",
            hint=f"as root: sysctl -w vm.nr_hugepages={_pool('nr') + needed - free}",
        )


def _pool(count: str) -> int:
    return int((_POOL / f"{count}_hugepages").read_text())
