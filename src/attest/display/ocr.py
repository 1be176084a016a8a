"""Reading the text in a picture of a screen, by Tesseract."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
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

_ONE_THREAD: Final = {"OMP_THREAD_LIMIT": "1"}
"""Tesseract's threads wait for each other: on two cores, four take five times as long as one."""


def variants(picture: Image) -> Iterator[str]:
    """The text, read from the picture prepared in several ways, the most promising first.

    That one is read alone, since mostly it is all that is wanted; the others at the same time.

    Raises:
        HostError: Tesseract or Pillow is not installed, or Tesseract fails.
    """
    library = pillow()
    grey = picture.convert("L")
    size = (grey.width * _SCALE, grey.height * _SCALE)
    large = grey.resize(size, library.Image.Resampling.LANCZOS)
    if _mean(grey) < _DARK:  # it was trained on dark letters on light paper
        large = library.ImageOps.invert(large)
    yield _tesseract(library.ImageOps.autocontrast(large), 6)
    black_and_white = large.point(lambda value: 255 if value > _DARK else 0)
    others = [(black_and_white, 11), (library.ImageOps.invert(large), 11), (grey, 3)]
    with ThreadPoolExecutor(min(len(others), os.cpu_count() or 1)) as pool:
        readings = [pool.submit(_tesseract, *each) for each in others]
        try:
            for reading in readings:
                yield reading.result()
        finally:  # nobody may want the rest
            pool.shutdown(cancel_futures=True)


def _mean(grey: Image) -> float:
    histogram = grey.histogram()
    return sum(value * count for value, count in enumerate(histogram)) / max(sum(histogram), 1)


def _tesseract(picture: Image, segmentation: int) -> str:
    file = BytesIO()
    picture.save(file, "PPM")
    try:
        done = subprocess.run(
            ["tesseract", "stdin", "stdout", "--psm", str(segmentation)],
            input=file.getvalue(), capture_output=True, timeout=_LIMIT, check=False,
            env={**os.environ, **_ONE_THREAD},
        )  # fmt: skip
    except FileNotFoundError:
        raise HostError("`tesseract` was not found", hint="apt-get install tesseract-ocr") from None
    except subprocess.TimeoutExpired:
        raise HostError(f"`tesseract` read one picture for more than {_LIMIT} s") from None
    if done.returncode != 0:
        errors = done.stderr.decode(errors="replace").strip()
        raise HostError(f"`tesseract` failed: {errors or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")
