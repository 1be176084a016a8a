"""Keys for characters, and pictures as guests give them."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from attest.display.inside import understand
from attest.display.keys import key_for
from attest.display.ocr import variants
from attest.display.picture import from_pixels, to_png
from attest.display.xwd import XwdError, decode
from attest.errors import HostError


@pytest.mark.parametrize(
    ("character", "key"),
    [
        ("a", "a"), ("A", "shift-a"), ("7", "7"), ("&", "shift-7"), ("_", "shift-minus"),
        ("?", "shift-slash"), ('"', "shift-apostrophe"), ("|", "shift-backslash"), ("\n", "ret"),
        (" ", "spc"), ("~", "shift-grave_accent"), ("ctrl-alt-f2", "ctrl-alt-f2"), ("esc", "esc"),
    ],
)  # fmt: skip
def test_a_character_is_typed_by_its_key(character: str, key: str) -> None:
    assert key_for(character) == key


def _xwd(columns: int, rows: int, pixels: bytes, **fields: int) -> bytes:
    header = dict.fromkeys(
        ["size", "version", "format", "depth", "width", "height", "xoffset", "byte_order", "unit",
         "bit_order", "pad", "bits", "line", "visual", "red", "green", "blue", "rgb", "entries",
         "colours", "w", "h", "x", "y", "border"], 0,
    )  # fmt: skip
    header |= {"size": 100 + 4, "version": 7, "format": 2, "width": columns, "height": rows,
               "bits": 32, "line": columns * 4 + 4, "colours": 2}  # fmt: skip
    header |= fields
    lines = [pixels[row * columns * 4 :][: columns * 4] + b"\xee" * 4 for row in range(rows)]
    return struct.pack(">25I", *header.values()) + b"win\0" + bytes(24) + b"".join(lines)


_PIXELS = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0, 1, 2, 3, 0, 9, 9, 9, 0, 0, 0, 0, 0])
"""Three by two: red, green, blue, and three others."""


def test_a_dump_of_x_is_read() -> None:
    assert decode(_xwd(3, 2, _PIXELS)) == (3, 2, _PIXELS)
    picture = understand(b"xwd\n" + _xwd(3, 2, _PIXELS)).picture
    assert [picture.getpixel((x, 0)) for x in range(3)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert picture.getpixel((0, 1)) == (3, 2, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"short", _xwd(3, 2, _PIXELS)[:-5], _xwd(3, 2, _PIXELS, version=6),
        _xwd(3, 2, _PIXELS, format=1), _xwd(3, 2, _PIXELS, bits=16),
        _xwd(3, 2, _PIXELS, byte_order=1), _xwd(3, 2, _PIXELS, line=4),
        _xwd(3, 2, _PIXELS, height=1 << 30), _xwd(3, 2, _PIXELS, size=1 << 31),
    ],
)  # fmt: skip
def test_what_is_no_such_dump_is_refused(data: bytes) -> None:
    with pytest.raises(XwdError):
        decode(data)
    with pytest.raises(ValueError, match="xwd: "):
        understand(b"xwd\n" + data)


def test_a_frame_buffer_is_read() -> None:
    rows = _PIXELS[:12] + b"pad!" + _PIXELS[12:] + b"pad!"
    seen = understand(b"fb 3,2 32 16\n" + rows)
    assert seen.picture.size == (3, 2)
    assert seen.picture.getpixel((1, 0)) == (0, 255, 0)
    assert seen.text is None
    with pytest.raises(ValueError, match="16 bits"):
        understand(b"fb 3,2 16 8\n" + rows)


def test_a_text_console_is_read_and_drawn() -> None:
    text = "ab\0d" + "ü   "
    seen = understand(b"vcs 2 4\n" + text.encode("utf-32-le"))
    assert seen.text == "ab d\nü\n"
    assert seen.picture.getbbox() is not None


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"nothing\n",
        b"fb\n",
        b"vcs 1\n",
        b"png\nno picture",
        b"fb 9999999,9999999 32 39999996\nx",
        b"vcs 9999999 9999999\nx",
        b"vcs a b\n",
    ],
)
def test_other_output_is_refused(output: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        understand(output)


def _tesseract(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a script in the place of Tesseract."""
    (path / "tesseract").write_text(f"#!/bin/sh\n{script}\n")
    (path / "tesseract").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")


def test_a_picture_is_read_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tesseract(tmp_path, monkeypatch, 'cat >/dev/null; echo "$4 $OMP_THREAD_LIMIT"')
    texts = variants(from_pixels(3, 2, _PIXELS))
    assert list(texts) == ["6 1\n", "11 1\n", "11 1\n", "3 1\n"]


def test_others_are_not_read_where_the_first_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tesseract(tmp_path, monkeypatch, f'cat >/dev/null; echo "$4" >> {tmp_path}/read')
    next(variants(from_pixels(3, 2, _PIXELS)))
    assert (tmp_path / "read").read_text() == "6\n"


def test_what_tesseract_says_when_it_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tesseract(tmp_path, monkeypatch, "cat >/dev/null; echo no language >&2; exit 1")
    with pytest.raises(HostError, match="`tesseract` failed: no language"):
        next(variants(from_pixels(3, 2, _PIXELS)))


def test_without_tesseract_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"`tesseract` was not found(.|\n)*apt-get install tess"):
        next(variants(from_pixels(3, 2, _PIXELS)))


def test_a_png_is_one() -> None:
    with Image.open(BytesIO(to_png(from_pixels(3, 2, _PIXELS)))) as picture:
        assert (picture.format, picture.size) == ("PNG", (3, 2))
