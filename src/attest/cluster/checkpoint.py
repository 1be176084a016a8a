"""A cluster at one moment."""

from __future__ import annotations

from attest.machine.machine import Snapshot

__all__ = ["Checkpoint"]


class Checkpoint:
    """A cluster at one moment.

    Attributes:
        name: What the script calls it.
        snapshots: Each machine that was running, by name; all others were off.
    """

    def __init__(self, name: str, snapshots: dict[str, Snapshot]) -> None:
        self.name = name
        self.snapshots = snapshots

    def __repr__(self) -> str:
        return f"<checkpoint {self.name!r} of {', '.join(self.snapshots)}>"
