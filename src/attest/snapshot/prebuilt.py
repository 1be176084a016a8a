"""Snapshots in a directory that the user names, such as what a Nix derivation has made.

    KEY/            a snapshot, named after its shape's key, as in the cache

Where they are used, nothing is locked, written or removed: the directory may be anybody's, on a
file system that nobody can write to, and its files have other times than when they were written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attest.snapshot import record
from attest.snapshot.cache import Entry, read_entry
from attest.snapshot.differences import differences
from attest.snapshot.shape import Shape

__all__ = ["PrebuiltSnapshots", "UnfitError"]


class UnfitError(Exception):
    """A directory has no good snapshot of a machine; the text says what it has instead."""


class PrebuiltSnapshots:
    """The snapshots in a directory.

    Args:
        directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, shape: Shape) -> Entry:
        """The snapshot of a shape.

        Raises:
            UnfitError: There is none, or it is damaged.
        """
        path = self.directory / shape.key()
        if not path.is_dir():
            raise UnfitError(self._instead(shape))
        wrong = record.damage(path)
        entry = read_entry(path)
        if wrong or entry is None:
            raise UnfitError(f"the snapshot in {self.directory} is damaged: {wrong}")
        return entry

    def _instead(self, wanted: Shape) -> str:
        """What there is instead of a snapshot of this shape."""
        shapes = [entry.shape for entry in self._entries()]
        near = [_told(each, wanted) for each in shapes if _is_near(each, wanted)]
        if near:
            fewest = min(near, key=len)
            return f"the snapshot in {self.directory} was made with {'; with '.join(fewest)}"
        names = ", ".join(sorted({each.image_name for each in shapes}))
        there = f"only of {names}" if names else "nor any other that this attest can read"
        return f"{self.directory} has no snapshot of {wanted.image_name}, {there}"

    def _entries(self) -> Iterator[Entry]:
        for path in sorted(self.directory.iterdir()):
            if entry := read_entry(path):
                yield entry


def _told(there: Shape, wanted: Shape) -> list[str]:
    """Each field in which two shapes differ, with both values."""
    return [f"{name} {theirs}, this is {ours}" for name, theirs, ours in differences(there, wanted)]


def _is_near(there: Shape, wanted: Shape) -> bool:
    return there.image_name == wanted.image_name
