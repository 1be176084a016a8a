"""The rate of the host's time-stamp counter.

A guest in software emulation reads the host's counter. On `microvm` its kernel has no other clock
to calibrate it against and can spin for ever on a busy host, so it is told the rate
(`tsc_early_khz=`).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import time
from typing import Final

__all__ = ["tsc_khz"]

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_SAMPLE: Final = 0.002
"""Seconds between two readings: 0.002 % exact, even on a busy host. Each start waits for it."""


@functools.cache
def tsc_khz() -> int | None:
    """The counter's rate in kHz, or None where the processor has no such counter (not x86-64)."""
    if platform.machine() != "x86_64":
        return None
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_RDTSC)
    entry = ctypes.c_char.from_buffer(code)
    try:
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(entry))
        return _rate(read)
    finally:
        del entry
        code.close()


def _rate(read: ctypes._CFunctionType) -> int:
    ticks, begun = _reading(read)
    time.sleep(_SAMPLE)
    later, ended = _reading(read)
    return round((later - ticks) * 1_000_000 / (ended - begun))


def _reading(read: ctypes._CFunctionType) -> tuple[int, int]:
    """Ticks and nanoseconds of one moment: of some pairs, the one that was taken the fastest.

    On a busy host a thread may have to wait between the two, for longer than the sample lasts.
    """
    pairs = [(time.monotonic_ns(), read(), time.monotonic_ns()) for _ in range(5)]
    before, ticks, after = min(pairs, key=lambda pair: pair[2] - pair[0])
    return ticks, (before + after) // 2
