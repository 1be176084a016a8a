"""In what two shapes of machines differ, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from attest.snapshot.shape import Shape

__all__ = ["differences", "why_none_fits"]

_WORDS: Final = {
    "vmm": "VMM",
    "cpu": "processor",
    "cpu_model": "processor model",
    "machine": "machine type",
    "nics": "network cards",
    "hugepages": "huge pages",
}
"""What people call those fields of `Shape` that are called otherwise."""

_MOST: Final = 3
"""Fields in which what is there differs, at most, so that it is worth a word: else it is some other
machine's."""


def differences(there: Shape, wanted: Shape) -> Iterator[tuple[str, str, str]]:
    """Each field in which two shapes differ: its name, and both values."""
    for field in Shape.__struct_fields__:
        theirs, ours = getattr(there, field), getattr(wanted, field)
        if theirs != ours:
            name = _WORDS.get(field, field.replace("_", " "))
            yield name, _text(field, theirs), _text(field, ours)


def why_none_fits(there: Iterable[Shape], wanted: Shape) -> str:
    """What has changed since the nearest of the snapshots of an image; empty: there is none near.

    Args:
        there: The shapes of snapshots, that used last first.
        wanted: The one that none of them is of.
    """
    near = [_changes(each, wanted) for each in there if each.image_name == wanted.image_name]
    fewest = min(near, key=len, default=[])
    return f"no snapshot fits: {'; '.join(fewest)}" if 0 < len(fewest) <= _MOST else ""


def _changes(there: Shape, wanted: Shape) -> list[str]:
    changes = []
    for name, theirs, ours in differences(there, wanted):
        long = len(theirs) + len(ours) > 80
        changes.append(f"other {name}" if long else f"{name} {theirs} → {ours}")
    return changes


def _text(field: str, value: Any) -> str:
    if field == "image":
        return str(value)[:12]
    if field == "memory":
        return f"{value} MiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value) or "none"
