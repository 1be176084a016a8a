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
_SAMPLE: Final = 0.02
"""Seconds between two readings: 0.05 % exact, and part of every first start."""


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
    ticks, begun = read(), time.monotonic_ns()
    time.sleep(_SAMPLE)
    ticks, elapsed = read() - ticks, time.monotonic_ns() - begun
    rate: int = round(ticks * 1_000_000 / elapsed)
    return rate
