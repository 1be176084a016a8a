"""Names with a range of numbers in them, as shells have it: ``web{1..3}``."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["expand_range"]

_RANGE: Final = re.compile(r"([^{}]*)\{([0-9]+)\.\.([0-9]+)\}([^{}]*)")


def expand_range(name: str, limit: int) -> list[str]:
    """The names that a name with a range stands for; without a range, it alone.

    A first number with leading zeros gives all the same width: ``web{01..10}``.

    Args:
        name: The name, with one range at most.
        limit: How many names it may stand for.

    Raises:
        ValueError: It has braces and no range, or its range is not good; says what would be right.
    """
    if "{" not in name and "}" not in name:
        return [name]
    found = _RANGE.fullmatch(name)
    if found is None:
        raise ValueError("expected one range of numbers in the braces, as in web{1..3}")
    stem, first, last, end = found.groups()
    count = int(last) - int(first) + 1
    if not 1 <= count <= limit:
        raise ValueError(
            f"expected a range of numbers that counts up, with at most {limit} of them, "
            "as in web{1..3}"
        )
    width = len(first) if first.startswith("0") else 0
    return [f"{stem}{number:0{width}}{end}" for number in range(int(first), int(last) + 1)]
