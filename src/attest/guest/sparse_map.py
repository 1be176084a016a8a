"""Files with holes in tar streams: GNU tar's sparse format 1.0.

The content of such a member begins with a map, decimal numbers on a line each: how many parts of
the file hold data, and the offset and the size of each. Zeros fill it up to a block. The parts
follow, without what lies between them.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Final

__all__ = ["Part", "data_parts", "encode_map", "is_sparse", "read_map", "sparse_records"]

Part = tuple[int, int]
"""The offset and the size of a part of a file that holds data."""

_MOST: Final = 1 << 13
"""Parts of a file that is sent, at most; what comes after so many is taken for data."""

_MOST_READ: Final = 1 << 18
"""Parts of a file that comes, at most: a guest's own `tar` names each of them."""

_PREFIX: Final = "GNU.sparse."
_FORM: Final = {"major": "1", "minor": "0"}
_BLOCK: Final = tarfile.BLOCKSIZE


def data_parts(file: int, size: int) -> list[Part] | None:
    """Where a file holds data; None where it has no holes, or its file system does not tell.

    A part without bytes at the file's end says that it ends with a hole.

    Args:
        file: Its descriptor, whose position becomes 0.
        size: Its size, or as much of it as is wanted.
    """
    parts: list[Part] = []
    hole = 0
    while hole < size:
        try:
            data = os.lseek(file, hole, os.SEEK_DATA)
            if data >= size:
                break
            hole = os.lseek(file, data, os.SEEK_HOLE)
        except OSError:  # nothing but a hole is left, or nobody knows
            break
        hole = size if len(parts) == _MOST - 1 else min(hole, size)
        parts.append((data, hole - data))
    known = _tells(file)
    os.lseek(file, 0, os.SEEK_SET)
    if not known or sum(length for _, length in parts) == size:
        return None
    return parts if parts and hole == size else [*parts, (size, 0)]


def _tells(file: int) -> bool:
    try:
        os.lseek(file, 0, os.SEEK_HOLE)
    except OSError:  # its file system does not know, or it is empty
        return False
    return True


def sparse_records(name: str, size: int) -> dict[str, str]:
    """The pax records of such a member."""
    told = {**_FORM, "name": name, "realsize": str(size)}
    return {f"{_PREFIX}{key}": value for key, value in told.items()}


def is_sparse(records: Mapping[str, str]) -> bool:
    """Whether a member's pax records say that it begins with such a map.

    Raises:
        ValueError: It is in another of GNU tar's sparse formats.
    """
    told = {
        key.removeprefix(_PREFIX): value
        for key, value in records.items()
        if key.startswith(_PREFIX)
    }
    if not told:
        return False
    if told | _FORM != told or told.keys() != {*_FORM, "name", "realsize"}:
        raise ValueError("a sparse file in another form than 1.0")
    return True


def encode_map(parts: Sequence[Part]) -> bytes:
    """The map, with its padding."""
    numbers = [len(parts), *(number for part in parts for number in part)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text + bytes(-len(text) % _BLOCK)


def read_map(block: Callable[[], bytes], size: int) -> list[Part]:
    """Read a hostile map.

    Args:
        block: Returns the next block of the member.
        size: That of the whole file.

    Raises:
        ValueError: It is none of such a file.
    """
    text = bytearray()
    numbers: list[int] = []
    while not numbers or len(numbers) < 1 + 2 * numbers[0]:
        text += block()
        *lines, rest = bytes(text).split(b"\n")
        numbers += [_number(line) for line in lines]
        text = bytearray(rest.rstrip(b"\0"))
        if len(text) > 20 or (numbers and numbers[0] > _MOST_READ):
            raise ValueError("a map of a sparse file that cannot be read")
    parts = list(zip(numbers[1::2], numbers[2::2], strict=False))[: numbers[0]]
    end = 0
    for offset, length in parts:
        if offset < end or offset + length > size:
            raise ValueError("a map of a sparse file whose parts do not fit")
        end = offset + length
    return parts


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise ValueError("a map of a sparse file that cannot be read")
    return int(digits)
