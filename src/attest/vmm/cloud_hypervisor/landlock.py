"""Landlock: whether this host's kernel lets a program give up the files that it does not need."""

from __future__ import annotations

import ctypes
import functools
from typing import Final

__all__ = ["landlock_version"]

_CREATE_RULESET: Final = 444
"""The system call, on every architecture."""

_ASK_FOR_VERSION: Final = 1


@functools.cache
def landlock_version() -> int:
    """The version of the kernel's Landlock; 0 where it has none, or does not use it.

    The kernel's Documentation/userspace-api/landlock.rst says how to ask, and what each can do.
    """
    call = ctypes.CDLL(None).syscall
    none, no_size, flags = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_uint32(_ASK_FOR_VERSION)
    return max(int(call(ctypes.c_long(_CREATE_RULESET), none, no_size, flags)), 0)
