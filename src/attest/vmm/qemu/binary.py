"""The QEMU of a host: which it is, and what it can."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attest.errors import HostError
from attest.vmm.base import identity

__all__ = ["QemuBinary", "find_qemu"]

OLDEST: Final = (7, 2)

_CONSOLE_PIPES: Final = (8, 1)
"""The first QEMU whose console can have its input in another descriptor than its output."""

_READ_ONLY: Final = (8, 2)
"""The first QEMU that maps a file which it may not write; older ones open it for writing."""


@dataclass(frozen=True)
class QemuBinary:
    """A QEMU that was found.

    Attributes:
        path: The executable.
        version: Major, minor and micro number.
    """

    path: Path
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"QEMU {'.'.join(map(str, self.version))} ({self.path})"

    @property
    def identity(self) -> str:
        """Text that is another one where this is a program that makes other snapshots."""
        return identity(self, self.path)

    @property
    def opens_read_only(self) -> bool:
        """It maps a saved memory that it may not write."""
        return self.version >= _READ_ONLY

    @property
    def has_console_pipes(self) -> bool:
        """Its console can be on two pipes; else it is on a socket."""
        return self.version >= _CONSOLE_PIPES

    def doubt(self, kernel: str) -> str:
        """Nothing: each version that `find_qemu` takes has been tested."""
        return ""

    def unfit(self, kernel: str) -> str:
        """Nothing: it restores every kernel."""
        return ""


@functools.cache
def find_qemu(program: str = "") -> QemuBinary:
    """A QEMU for this host's architecture.

    Args:
        program: Its path or name; default: ``$ATTEST_QEMU``, else the one on PATH.

    Raises:
        HostError: There is none, it does not run, or it is older than 7.2.
    """
    name = f"qemu-system-{platform.machine()}"
    wanted = program or os.environ.get("ATTEST_QEMU") or name
    path = shutil.which(wanted)
    if path is None:
        raise HostError(f"`{wanted}` was not found", hint="apt-get install qemu-system-x86")
    binary = QemuBinary(Path(path).absolute(), _version(path))
    if binary.version < OLDEST:
        raise HostError(f"{binary} is too old: 7.2 is the oldest that works")
    return binary


def _version(path: str) -> tuple[int, int, int]:
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:  # such as that of a file for another architecture
        raise HostError(f"{path} --version failed: {error.strerror}") from None
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", result.stdout)
    if match is None:
        raise HostError(f"{path} --version failed: {(result.stderr or result.stdout).strip()}")
    major, minor, micro = (int(number) for number in match.groups())
    return major, minor, micro
