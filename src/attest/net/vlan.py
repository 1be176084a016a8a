"""A network of a test, as its script sees it."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["VLan"]


class VLan(msgspec.Struct, frozen=True):
    """One network of a test.

    Attributes:
        nr: Its number, as in the nodes' ``vlans``.
        socket_dir: The directory of its VDE switch, which is there as soon as the cluster has a
            machine of a start script.
    """

    nr: int
    socket_dir: Path

    def __repr__(self) -> str:
        return f"<VLan {self.nr}>"
