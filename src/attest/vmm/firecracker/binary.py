"""The Firecracker of a host: which it is, and which guests it gets along with."""

from __future__ import annotations

import functools
import re
from typing import ClassVar, Final

from attest.vmm.program import Binary, ask, ask_version, locate, require_version

__all__ = ["FirecrackerBinary", "find_firecracker"]

_OLDEST: Final = (1, 15)

_VARIABLE: Final = "ATTEST_FIRECRACKER"
_RELEASES: Final = "https://github.com/firecracker-microvm/firecracker/releases"

_FIT: Final = (1, 16, 1)
"""The first Firecracker whose restores all its guests survive."""

_DEAF: Final = (1, 16, 0)
"""The one Firecracker whose restored guests answer nobody over vsock: what has come in before the
save is not delivered again (its CHANGELOG, 1.16.1, #5958)."""

_GUESTS: Final[dict[tuple[int, ...], tuple[str, ...]]] = {
    (1, 15): ("5.10", "6.1", "6.12"),
    (1, 16): ("5.10", "6.1", "6.12", "6.18"),
}
"""The tested versions, each with the guest kernels that it restores: those of its
docs/kernel-policy.md, and Debian 13's 6.12, of which 20 of 20 restores lived."""


class FirecrackerBinary(Binary, frozen=True):
    """A Firecracker that was found.

    Attributes:
        snapshots: The version of its snapshots, as it prints it.
    """

    title: ClassVar = "Firecracker"
    tested: ClassVar = tuple(_GUESTS)

    snapshots: str

    @property
    def identity(self) -> str:
        """Text that is another one where this is a program that makes other snapshots."""
        return f"{super().identity} snapshots {self.snapshots}"

    @property
    def opens_read_only(self) -> bool:
        """It maps a saved memory that it may not write."""
        return True

    def doubt(self, kernel: str) -> str:
        """What its user should know of it with this guest kernel, or with any; mostly nothing."""
        if untested := super().doubt(kernel):
            return untested
        guests = _GUESTS[self.version[:2]]
        if kernel and _series(kernel) not in guests and not self.unfit(kernel):
            known = ", ".join(guests)
            return f"guest kernel {kernel} is not known to survive snapshots of {self}: {known} are"
        return ""

    def unfit(self, kernel: str) -> str:
        """Why guests with this kernel do not survive a snapshot; empty: they do."""
        needed = ".".join(map(str, _FIT))
        if self.version == _DEAF:
            return f"guests do not answer after a restore by {self}: it needs {needed}"
        if self.version < _FIT and _number(_series(kernel)) >= (6, 18):
            return f"guest kernel {kernel} crashes after a restore by {self}: it needs {needed}"
        return ""


@functools.cache
def find_firecracker(program: str = "") -> FirecrackerBinary:
    """A Firecracker.

    Args:
        program: Its path or name; default: ``$ATTEST_FIRECRACKER``, else the one on PATH.

    Raises:
        HostError: There is none, it does not run, or it is older than 1.15.
    """
    hint = f"get it from {_RELEASES}, and put it on PATH or its path into {_VARIABLE}"
    path = locate(program, _VARIABLE, "firecracker", hint)
    version = ask_version(path, r"Firecracker v(\d+)\.(\d+)\.(\d+)")
    snapshots = ask(path, "--snapshot-version", r"v(\d\S*)")[1]
    binary = FirecrackerBinary(path, version, snapshots)
    require_version(binary, _OLDEST, f"get a newer one from {_RELEASES}")
    return binary


def _series(kernel: str) -> str:
    """The first two numbers of a kernel's version, such as ``6.1``."""
    return ".".join(re.split(r"[.-]", kernel)[:2])


def _number(series: str) -> tuple[int, ...]:
    return tuple(int(part) for part in series.split(".") if part.isdigit())
