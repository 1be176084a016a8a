"""What a cluster stands on: its scratch directory, its cell, and the networks in there.

Other processes make it. So `attest run` has it begun as soon as it knows the manifest, and imports
meanwhile what the machines need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from attest.manifest import Manifest
from attest.net.bridge import Attachment, make_bridges
from attest.net.cell import Cell
from attest.node.attachments import attachments_of
from attest.support.concurrency import call_in_thread
from attest.support.scratch import Scratch

__all__ = ["Ground", "Made"]


class Made(NamedTuple):
    """What was made.

    Attributes:
        scratch: The directory of the cluster's temporary files, which is there.
        cell: The cell, with bridges and taps for all nodes that boot an image.
    """

    scratch: Scratch
    cell: Cell


class Ground:
    """Is made in the background, from construction on, and is there until `close`.

    Args:
        manifest: What the cluster is made of.
        numbers: The numbers of its nodes, by their names.
    """

    def __init__(self, manifest: Manifest, numbers: Mapping[str, int]) -> None:
        nodes = manifest.image_nodes().items()
        places = [each for name, node in nodes for each in attachments_of(node, numbers[name])]
        self._made = call_in_thread(partial(_make, places), "make the cell")

    def made(self) -> Made:
        """Wait until all is there.

        Raises:
            HostError: This host does not let the user make it.
        """
        return self._made.result()

    def close(self) -> None:
        """End every process in the cell and remove all; nothing happens when that is done."""
        wait([self._made])
        if self._made.exception() is None:
            scratch, cell = self._made.result()
            cell.close()
            scratch.close()


def _make(places: Sequence[Attachment]) -> Made:
    with ExitStack() as undo:
        scratch = Scratch()
        undo.callback(scratch.close)
        cell = Cell(scratch.path)
        undo.callback(cell.close)
        scratch.create()
        make_bridges(cell, places)
        undo.pop_all()
    return Made(scratch, cell)
