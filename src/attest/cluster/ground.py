"""What a cluster stands on: its scratch directory, its cell, and the networks in there.

Other processes make it. So `attest run` has it begun as soon as it knows the manifest, and imports
meanwhile what the machines need.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from attest.manifest import Manifest
from attest.net.bridge import cell_with_bridges
from attest.node.attachments import attachments_of
from attest.support.scratch import Scratch

__all__ = ["Ground"]


class Ground:
    """Is made in the background, from construction on, and is there until `close`.

    Args:
        manifest: What the cluster is made of.
        numbers: The numbers of its nodes, by their names.

    Attributes:
        scratch: The directory of the cluster's temporary files, which is there once it is `ready`.
        cell: The cell, with bridges and taps for all nodes that boot an image.

    Raises:
        HostError: The place for the directory is somebody else's, or a program is missing.
    """

    def __init__(self, manifest: Manifest, numbers: Mapping[str, int]) -> None:
        nodes = manifest.image_nodes().items()
        places = [each for name, node in nodes for each in attachments_of(node, numbers[name])]
        self.scratch = Scratch()
        self.cell = cell_with_bridges(self.scratch.path, places)

    def ready(self) -> None:
        """Wait until all is there.

        Raises:
            HostError: This host does not let the user make the namespaces or the networks.
        """
        self.cell.ready()
        self.scratch.create()

    def disown(self) -> None:
        """Leave all to the process that this one was forked from, and hold nothing of it."""
        self.scratch.disown()
        self.cell.disown()

    def close(self) -> None:
        """End every process in the cell and remove all; nothing happens when that is done."""
        with ExitStack() as ends:
            ends.callback(self.scratch.close)
            ends.callback(self.cell.close)
