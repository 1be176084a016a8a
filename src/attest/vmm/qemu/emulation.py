"""What guests are told under software emulation, where other things are slow than in hardware."""

from __future__ import annotations

from typing import Final

__all__ = ["KERNEL_ARGUMENTS", "processor_features"]

KERNEL_ARGUMENTS: Final = "mitigations=off init_on_alloc=0 cryptomgr.notests"
"""For Linux (Documentation/admin-guide/kernel-parameters.txt).

An emulated processor does not speculate, so that nothing needs to be mitigated; and Debian's
kernels zero each page that they take, which most of its users write to at once. Its ciphers are not
tested at each boot and each time that one is loaded.
"""

_SLOW: Final = (
    # Linux moves memory byte by byte on a processor that says that this is fast, which QEMU does
    # one byte at a time; else it moves eight.
    "erms", "fsrm",
    "la57",  # a fifth level of page tables, to be walked at each miss of the translation buffer
    "pku", "smap",  # changed at each entry into the kernel, or copy from and to user space
)  # fmt: skip
_SLOW_LATER: Final = ("fzrm", "fsrs", "fsrc")  # as erms
_LATER: Final = (8, 0)
"""The first QEMU that knows, and sets, the later ones."""


def processor_features(qemu: tuple[int, ...]) -> str:
    """The end of QEMU's ``-cpu``: what an emulated processor had better not have.

    Args:
        qemu: QEMU's version.
    """
    flags = _SLOW + (_SLOW_LATER if qemu >= _LATER else ())
    return "".join(f",-{flag}" for flag in flags)
