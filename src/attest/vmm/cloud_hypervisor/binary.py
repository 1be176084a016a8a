"""The Cloud Hypervisor of a host: which it is, and whether it has been tested."""

from __future__ import annotations

import functools
from typing import ClassVar, Final

from attest.vmm.program import Binary, ask_version, locate, require_version

__all__ = ["CloudHypervisorBinary", "find_cloud_hypervisor"]

_OLDEST: Final = (50,)

_VARIABLE: Final = "ATTEST_CLOUD_HYPERVISOR"
_RELEASES: Final = "https://github.com/cloud-hypervisor/cloud-hypervisor/releases"


class CloudHypervisorBinary(Binary, frozen=True):
    """A Cloud Hypervisor that was found.

    It opens a saved memory for writing, though what it maps is private; and it restores every
    kernel.
    """

    title: ClassVar = "Cloud Hypervisor"
    tested: ClassVar = ((53, 0),)


@functools.cache
def find_cloud_hypervisor(program: str = "") -> CloudHypervisorBinary:
    """A Cloud Hypervisor.

    Args:
        program: Its path or name; default: ``$ATTEST_CLOUD_HYPERVISOR``, else the one on PATH.

    Raises:
        HostError: There is none, it does not run, or it is older than 50.
    """
    hint = f"get it from {_RELEASES}, and put it on PATH or its path into {_VARIABLE}"
    path = locate(program, _VARIABLE, "cloud-hypervisor", hint)
    binary = CloudHypervisorBinary(path, ask_version(path, r"cloud-hypervisor v(\d+)\.(\d+)"))
    require_version(binary, _OLDEST, f"get a newer one from {_RELEASES}")
    return binary
