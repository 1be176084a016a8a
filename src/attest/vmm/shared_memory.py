"""A guest's memory that the driver has, too, so that it can copy it."""

from __future__ import annotations

import os
from pathlib import Path

from attest.support.sparse_copy import copy_sparse

__all__ = ["SharedMemory"]


class SharedMemory:
    """Memory without a file system, see memfd_create(2); who makes it closes it.

    A disk that is full does not end the VMM, and nothing of it is written to a disk.

    Args:
        size: MiB.

    Attributes:
        descriptor: For the VMM to inherit, which opens it by ``/proc/self/fd``.
    """

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("guest memory", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, size << 20)

    def copy(self, file: Path) -> None:
        """Copy it to a new file, without what the guest has not touched.

        Raises:
            HostError: It cannot be written.
        """
        copy_sparse(file, Path(f"/proc/{os.getpid()}/fd/{self.descriptor}"))

    def close(self) -> None:
        """Give it back; nothing happens a second time."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
