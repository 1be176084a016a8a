"""A machine in one file, for VMMs that save it as several.

It begins with the memory, if that has no file of its own, as the VMM has written it: so the VMM can
read it from here. The state of the devices follows, and its length in eight bytes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

__all__ = ["read_devices", "write_whole"]

_LENGTH: Final = 8


def write_whole(file: Path, memory: Path, devices: Path) -> None:
    """Make a machine's file.

    Args:
        file: The file.
        memory: The memory, which becomes its beginning; it may be missing.
        devices: The state of the devices, which is copied.
    """
    if memory.exists():
        shutil.move(memory, file)
    state = devices.read_bytes()
    with file.open("ab") as whole:
        whole.write(state + len(state).to_bytes(_LENGTH, "little"))


def read_devices(file: Path) -> bytes:
    """The state of the devices in a machine's file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not whole.
    """
    with file.open("rb") as whole:
        size = os.fstat(whole.fileno()).st_size
        if size >= _LENGTH:
            whole.seek(size - _LENGTH)
            length = int.from_bytes(whole.read(_LENGTH), "little")
            if length <= size - _LENGTH:
                whole.seek(size - _LENGTH - length)
                return whole.read(length)
    raise ValueError(f"{file} is not whole")
