"""Sizes as people write them: a whole number of MiB, or a text with a unit."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["SIZE_PATTERN", "mebibytes"]

SIZE_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(M|MiB|G|GiB)$"
"""The texts that `mebibytes` takes, if what they say is a whole number of MiB."""

_FACTORS: Final = {"M": 1, "G": 1024}
"""MiB in a unit, by its first letter: M and MiB are one, as with QEMU."""


def mebibytes(size: object) -> int:
    """A size in MiB.

    Args:
        size: A whole number of MiB; or a text such as ``"512M"``, ``"1GiB"`` or ``"1.5G"``.

    Raises:
        ValueError: It is none; says what would be right.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    found = re.fullmatch(SIZE_PATTERN, size) if isinstance(size, str) else None
    if found is None:
        raise ValueError('expected a whole number of MiB, or a text such as "512M" or "1.5G"')
    fraction, unit = found.groups(default="")
    digits = found[0].removesuffix(unit).replace(".", "")
    scale: int = 10 ** len(fraction[1:])
    whole, rest = divmod(int(digits) * _FACTORS[unit[0]], scale)
    if rest:
        raise ValueError("expected a whole number of MiB, which this is not")
    return whole
