"""Pictures as `xwd` dumps them (X11/XWDFile.h, version 7): what X servers show today."""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["XwdError", "decode"]

_HEADER: Final = struct.Struct(">25I")
_VERSION: Final = 7
_Z_PIXMAP: Final = 2
_COLOUR: Final = 12
"""Bytes of an entry of the colour map, which true-colour pictures carry, too."""


class XwdError(Exception):
    """It is no such picture, or of a kind that no server of today makes."""


def decode(data: bytes) -> tuple[int, int, bytes]:
    """Width, height, and the pixels, four bytes each in the order blue, green, red, unused.

    Raises:
        XwdError: It cannot be read.
    """
    if len(data) < _HEADER.size:
        raise XwdError("it is cut off")
    size, version, kind, _, width, height, _, little, *rest = _HEADER.unpack_from(data)
    # byte_order, bitmap_unit, bitmap_bit_order, bitmap_pad, bits_per_pixel, bytes_per_line, …
    bits, line, colours = rest[3], rest[4], rest[11]
    if version != _VERSION or kind != _Z_PIXMAP or bits != 32 or little != 0:
        raise XwdError(f"version {version}, kind {kind}, {bits} bits a pixel, byte order {little}")
    start = size + colours * _COLOUR
    if line < width * 4 or len(data) < start + line * height:
        raise XwdError("it is cut off")
    rows = (data[start + row * line :][: width * 4] for row in range(height))
    return width, height, b"".join(rows)
