"""Copies of large files that are mostly empty, such as disks and memories."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import BinaryIO, Final

from attest.errors import HostError

__all__ = ["copy_sparse", "write_sparse"]

_BLOCK: Final = 4096
_ZEROS: Final = bytes(_BLOCK)


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


def write_sparse(target: BinaryIO, data: bytes) -> None:
    """Write to a file that is empty from its position on, and leave holes where there are zeros.

    The file's length is for the caller to set, as it may end with a hole.
    """
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        if block == _ZEROS[: len(block)]:
            target.seek(len(block), 1)
        else:
            target.write(block)
