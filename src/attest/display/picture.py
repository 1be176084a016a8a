"""Pictures of a screen, by Pillow, which is an extra of attest's."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from attest.errors import HostError
from attest.support.extras import how_to_install

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_text", "from_pixels", "open_picture", "pillow", "to_png"]

_CELL: Final = (6, 12)
"""Width and height of a character of Pillow's built-in font, in pixels."""


def pillow() -> Any:
    """Pillow's package.

    Raises:
        HostError: It is not installed.
    """
    try:
        import PIL
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
        import PIL.ImageOps
    except ImportError:
        raise HostError("pictures of a screen need Pillow", hint=how_to_install("screen")) from None
    return PIL


def from_pixels(width: int, height: int, pixels: bytes) -> Image:
    """The picture of pixels with four bytes each: blue, green, red, unused."""
    picture: Image = pillow().Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", 0, 1)
    return picture


def draw_text(lines: list[str]) -> Image:
    """Draw the picture of a text console."""
    library = pillow()
    width = max((len(line) for line in lines), default=1) or 1
    size = (width * _CELL[0], max(len(lines), 1) * _CELL[1])
    picture: Image = library.Image.new("RGB", size)
    pen = library.ImageDraw.Draw(picture)
    font = library.ImageFont.load_default_imagefont()
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            shown = character if character.isascii() else "?"
            pen.text((column * _CELL[0], row * _CELL[1]), shown, font=font, fill="white")
    return picture


def open_picture(data: bytes) -> Image:
    """Decode a picture from the content of a file."""
    picture: Image = pillow().Image.open(BytesIO(data))
    return picture


def to_png(picture: Image) -> bytes:
    """Encode a picture as the content of a PNG file."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
