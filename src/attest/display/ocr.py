"""Reading the text in a picture of a screen, by Tesseract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from attest.display.picture import pillow
from attest.errors import HostError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["variants"]

_SCALE: Final = 3
"""Tesseract wants letters of about 30 pixels; those of a text console have 10."""

_DARK: Final = 128
"""The mean brightness below which a picture is light text on a dark ground."""

_LIMIT: Final = 60
"""Seconds for one picture."""


def variants(picture: Image) -> Iterator[str]:
    """The text, read from the picture prepared in several ways, the most promising first.

    Raises:
        HostError: Tesseract or its Python package is not installed.
    """
    library = pillow()
    grey = picture.convert("L")
    size = (grey.width * _SCALE, grey.height * _SCALE)
    large = grey.resize(size, library.Image.Resampling.LANCZOS)
    if _mean(grey) < _DARK:  # it was trained on dark letters on light paper
        large = library.ImageOps.invert(large)
    yield _tesseract(library.ImageOps.autocontrast(large), 6)
    yield _tesseract(large.point(lambda value: 255 if value > _DARK else 0), 11)
    yield _tesseract(library.ImageOps.invert(large), 11)
    yield _tesseract(grey, 3)


def _mean(grey: Image) -> float:
    histogram = grey.histogram()
    return sum(value * count for value, count in enumerate(histogram)) / max(sum(histogram), 1)


def _tesseract(picture: Image, segmentation: int) -> str:
    try:
        import pytesseract
    except ImportError:
        raise HostError(
            "reading text from a screen needs pytesseract",
            hint="pip install 'attest-vm[screen]'",
        ) from None
    try:
        text = pytesseract.image_to_string(picture, config=f"--psm {segmentation}", timeout=_LIMIT)
    except pytesseract.TesseractNotFoundError:
        raise HostError("`tesseract` was not found", hint="apt-get install tesseract-ocr") from None
    return str(text)
