"""The QEMU of a host: which it is, and what it can."""

from __future__ import annotations

import functools
import platform
from typing import ClassVar, Final

from attest.vmm.program import Binary, ask_version, locate, require_version

__all__ = ["QemuBinary", "find_qemu"]

_OLDEST: Final = (7, 2)

_CONSOLE_PIPES: Final = (8, 1)
"""The first QEMU whose console can have its input in another descriptor than its output."""

_READ_ONLY: Final = (8, 2)
"""The first QEMU that maps a file which it may not write; older ones open it for writing."""


class QemuBinary(Binary, frozen=True):
    """A QEMU that was found. Each version that `find_qemu` takes has been tested."""

    title: ClassVar = "QEMU"

    @property
    def opens_read_only(self) -> bool:
        """It maps a saved memory that it may not write."""
        return self.version >= _READ_ONLY

    @property
    def has_console_pipes(self) -> bool:
        """Its console can be on two pipes; else it is on a socket."""
        return self.version >= _CONSOLE_PIPES


@functools.cache
def find_qemu(program: str = "") -> QemuBinary:
    """A QEMU for this host's architecture.

    Args:
        program: Its path or name; default: ``$ATTEST_QEMU``, else the one on PATH.

    Raises:
        HostError: There is none, it does not run, or it is older than 7.2.
    """
    name = f"qemu-system-{platform.machine()}"
    path = locate(program, "ATTEST_QEMU", name, "apt-get install qemu-system-x86")
    binary = QemuBinary(path, ask_version(path, r"version (\d+)\.(\d+)\.(\d+)"))
    require_version(binary, _OLDEST)
    return binary
