"""A network of a test, as its script sees it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VLan"]


@dataclass(frozen=True)
class VLan:
    """One network.

    Attributes:
        nr: Its number, as in the nodes' ``vlans``.
    """

    nr: int

    def __repr__(self) -> str:
        return f"<VLan {self.nr}>"
