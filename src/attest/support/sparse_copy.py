"""Copies of large files that are mostly empty, such as disks and memories."""

from __future__ import annotations

import subprocess
from pathlib import Path

from attest.errors import HostError

__all__ = ["copy_sparse"]


def copy_sparse(target: Path, source: Path) -> None:
    """Make a sparse copy of a file, which shares the file's blocks where the file system can.

    The copy can be written, the file need not be.

    Raises:
        HostError: It cannot be made.
    """
    options = ["--sparse=always", "--reflink=auto", "--no-preserve=mode"]
    command = ["cp", *options, str(source), str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HostError(result.stderr.strip().removeprefix("cp: "))
