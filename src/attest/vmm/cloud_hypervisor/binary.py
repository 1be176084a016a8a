"""The Cloud Hypervisor of a host: which it is, and whether it has been tested."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attest.errors import HostError
from attest.vmm.base import identity
from attest.vmm.program import ask, locate

__all__ = ["CloudHypervisorBinary", "find_cloud_hypervisor"]

OLDEST: Final = (50, 0)
_TESTED: Final = ((53, 0),)

_RELEASES: Final = "https://github.com/cloud-hypervisor/cloud-hypervisor/releases"


@dataclass(frozen=True)
class CloudHypervisorBinary:
    """A Cloud Hypervisor that was found.

    Attributes:
        path: The executable.
        version: Major and minor number.
    """

    path: Path
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"Cloud Hypervisor {'.'.join(map(str, self.version))} ({self.path})"

    @property
    def identity(self) -> str:
        """Text that is another one where this is a program that makes other snapshots."""
        return identity(self, self.path)

    @property
    def opens_read_only(self) -> bool:
        """It opens a saved memory for writing, though what it maps is private."""
        return False

    def doubt(self, kernel: str) -> str:
        """What its user should know of it; mostly nothing, whatever the guest's kernel."""
        if self.version in _TESTED:
            return ""
        tested = " and ".join(f"{major}.{minor}" for major, minor in _TESTED)
        return f"{self} has not been tested with attest: {tested} has"

    def unfit(self, kernel: str) -> str:
        """Nothing: it restores every kernel."""
        return ""


@functools.cache
def find_cloud_hypervisor(program: str = "") -> CloudHypervisorBinary:
    """A Cloud Hypervisor.

    Args:
        program: Its path or name; default: ``$ATTEST_CLOUD_HYPERVISOR``, else the one on PATH.

    Raises:
        HostError: There is none, it does not run, or it is older than 50.
    """
    path = locate(program, "ATTEST_CLOUD_HYPERVISOR", "cloud-hypervisor", _RELEASES)
    match = ask(path, "--version", r"cloud-hypervisor v(\d+)\.(\d+)")
    binary = CloudHypervisorBinary(path, (int(match[1]), int(match[2])))
    if binary.version < OLDEST:
        raise HostError(
            f"{binary} is too old: 50 is the oldest that works",
            hint=f"get a newer one from {_RELEASES}",
        )
    return binary
