"""A kernel that a boot loader takes like a ``bzImage``, and that has nothing to decompress.

To decompress a kernel takes an emulated processor half a second at each boot. Here the kernel's own
setup code is followed by the uncompressed kernel, each part where it runs, behind a few
instructions that do what the decompressor does last (Documentation/arch/x86/boot.rst of Linux).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, NamedTuple

from attest.errors import ImageBuildError

__all__ = ["write_flat_kernel"]

_SETUP_SECTORS: Final = 0x1F1
_SETUP_MAGIC: Final = (0x202, b"HdrS")
_SECTOR: Final = 512

_LOADED: Final = 0x100000
"""Where boot loaders put what follows the setup code, which then jumps there, in 32-bit mode."""

_TABLES: Final = 0x1000
"""Where the page tables are, from `_LOADED` on: three pages."""
_PAGE: Final = 4096
_SIZE: Final = 4 * _PAGE

_DESCRIPTORS: Final = 0x80
_ENTRY: Final = bytes.fromhex(
    "0f0115 80001000"  # lgdt  _LOADED + _DESCRIPTORS
    "b8 00101000  0f22d8"  # cr3 = _LOADED + _TABLES
    "0f20e0  83c820  0f22e0"  # cr4 |= PAE
    "b9 800000c0  0f32  0d 00010000  0f30"  # EFER |= LME
    "0f20c0  0d 00000080  0f22c0"  # cr0 |= PG
    "ea 40001000 1000"  # ljmp  0x10: _LOADED + 0x40
)
_LONG_MODE: Final = 0x40
_JUMP: Final = bytes.fromhex(
    "b8 18000000  8ed8  8ec0  8ed0"  # ds = es = ss = 0x18
    "89f6"  # rsi, which is where the boot parameters are, has 32 bits
    "b8"  # eax = the kernel's entry
)
_JUMP_END: Final = bytes.fromhex("ffe0")  # jmp  *rax

_CODE_SEGMENT: Final = 0x00AF9B000000FFFF
_DATA_SEGMENT: Final = 0x00CF93000000FFFF
_PRESENT: Final = 3
_LARGE: Final = 0x83
_LARGE_PAGE: Final = 2 << 20

_ELF: Final = b"\x7fELF\x02\x01"
_X86_64: Final = 62
_LOAD: Final = 1


class _Segment(NamedTuple):
    address: int
    content: memoryview


def write_flat_kernel(path: Path, compressed: bytes, kernel: bytes) -> None:
    """Write such a kernel; what is empty in it is a hole in the file.

    Args:
        path: The new file.
        compressed: The kernel as a ``bzImage``.
        kernel: The same, uncompressed: an ELF file.

    Raises:
        ImageBuildError: They are not what a kernel for x86-64 is like.
    """
    offset, magic = _SETUP_MAGIC
    if compressed[offset : offset + len(magic)] != magic:
        raise ImageBuildError("the kernel has no setup code")
    setup = compressed[: ((compressed[_SETUP_SECTORS] or 4) + 1) * _SECTOR]
    entry, segments = _read(kernel)
    with path.open("wb") as stream:
        stream.write(setup + _start(entry))
        for segment in segments:
            stream.seek(len(setup) + segment.address - _LOADED)
            stream.write(segment.content)


def _read(kernel: bytes) -> tuple[int, list[_Segment]]:
    """The physical address where an ELF file starts, and its parts that are loaded."""
    if kernel[: len(_ELF)] != _ELF or struct.unpack_from("<H", kernel, 18) != (_X86_64,):
        raise ImageBuildError("the uncompressed kernel is no ELF file for x86-64")
    entry, headers = struct.unpack_from("<QQ", kernel, 24)
    size, count = struct.unpack_from("<HH", kernel, 54)
    view, segments = memoryview(kernel), []
    for number in range(count):
        kind, _, start, _, address, length = struct.unpack_from(
            "<IIQQQQ", kernel, headers + number * size
        )
        if kind == _LOAD:
            segments.append(_Segment(address, view[start : start + length]))
    if not segments or min(segments).address < _LOADED + _SIZE:
        raise ImageBuildError("the uncompressed kernel is not to be loaded where kernels are")
    return entry, segments


def _start(entry: int) -> bytes:
    """What runs first: it enters long mode with the first GiB mapped, and then the kernel."""
    start = bytearray(_SIZE)
    start[: len(_ENTRY)] = _ENTRY
    jump = _JUMP + struct.pack("<I", entry) + _JUMP_END
    start[_LONG_MODE : _LONG_MODE + len(jump)] = jump
    table = _LOADED + _DESCRIPTORS + 8
    descriptors = struct.pack("<HIxxQQQQ", 4 * 8 - 1, table, 0, 0, _CODE_SEGMENT, _DATA_SEGMENT)
    start[_DESCRIPTORS : _DESCRIPTORS + len(descriptors)] = descriptors
    below = _LOADED + _TABLES + _PAGE
    struct.pack_into("<Q", start, _TABLES, below | _PRESENT)
    struct.pack_into("<Q", start, _TABLES + _PAGE, (below + _PAGE) | _PRESENT)
    pages = (number * _LARGE_PAGE | _LARGE for number in range(512))
    struct.pack_into("<512Q", start, _TABLES + 2 * _PAGE, *pages)
    return bytes(start)
