from __future__ import annotations

import struct
from pathlib import Path

import pytest

from attest.errors import ImageBuildError
from attest.image.flat_kernel import write_flat_kernel

LOADED = 0x100000
ENTRY = 0x1000000


def setup_code(magic: bytes = b"HdrS") -> bytes:
    """Boot sector with the setup header, and three more sectors of setup code."""
    code = bytearray(b"\xaa" * 512 * 4)
    code[0x1F1] = 3
    code[0x202:0x206] = magic
    return bytes(code)


def elf(*segments: tuple[int, bytes], machine: int = 62) -> bytes:
    """An ELF file with parts to be loaded at physical addresses, and a note."""
    notes, size = 4, 56
    start = 64 + size * (len(segments) + 1)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, ENTRY, 64, 0, 0, 64, size,
                          len(segments) + 1, 0, 0, 0)  # fmt: skip
    headers, contents = b"", b""
    for address, content in segments:
        place = start + len(contents)
        headers += struct.pack("<IIQQQQQQ", 1, 5, place, 0, address, len(content), len(content), 1)
        contents += content
    return header + headers + struct.pack("<IIQQQQQQ", notes, 4, 0, 0, 0, 8, 8, 1) + contents


def test_each_part_lies_where_the_boot_loader_puts_it(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    kernel = elf((ENTRY, b"text"), (ENTRY + 0x5000, b"data"))
    write_flat_kernel(path, setup_code() + b"compressed", kernel)
    image = path.read_bytes()
    loaded = image[len(setup_code()) :]
    assert image[: len(setup_code())] == setup_code()
    assert loaded[ENTRY - LOADED :].rstrip(b"\0") == b"text" + bytes(0x5000 - 4) + b"data"
    assert b"compressed" not in image
    assert struct.pack("<I", ENTRY) in loaded[:0x100]
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    ("compressed", "kernel", "said"),
    [
        (setup_code(b"none"), elf((ENTRY, b"text")), "no setup code"),
        (setup_code(), b"no ELF", "no ELF file"),
        (setup_code(), elf((ENTRY, b"text"), machine=183), "no ELF file for x86-64"),
        (setup_code(), elf(), "not to be loaded"),
        (setup_code(), elf((LOADED, b"text")), "not to be loaded"),
    ],
)
def test_what_is_no_kernel_is_told(
    tmp_path: Path, compressed: bytes, kernel: bytes, said: str
) -> None:
    with pytest.raises(ImageBuildError, match=said):
        write_flat_kernel(tmp_path / "vmlinuz", compressed, kernel)
