"""The files of disks, brought together in one directory that needs no other.

A disk in use is a chain of files: what the guest wrote since the last snapshot, what it wrote
before, and at the bottom an empty disk or a user's image. Some of them belong to several chains.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from attest.disk import qemu_img as disk
from attest.disk.qemu_img import ChainFile
from attest.support.paths import cache_dir
from attest.support.sparse_copy import copy_sparse
from attest.vmm.qemu.binary import QemuBinary

__all__ = ["Foreign", "CollectedDisks"]


class Foreign(msgspec.Struct, frozen=True):
    """A file that has another name elsewhere, through which it can be changed.

    Attributes:
        path: That name.
        size: Bytes.
        changed_ns: When its content was changed last, in nanoseconds since the epoch.
    """

    path: str
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path, file: Path) -> Foreign:
        """Describe ``file``, which came from ``path``."""
        status = file.stat()
        return cls(str(path), status.st_size, status.st_mtime_ns)


class CollectedDisks:
    """Brings disks into a directory. Nothing is copied that can be linked.

    Args:
        into: The directory.
        own: All files below it are to be given up: nobody uses them any more.
        qemu: The QEMU in use; default: the host's.

    Attributes:
        foreign: The files there that somebody else has too, by name.
    """

    def __init__(self, into: Path, own: Path, qemu: QemuBinary | None = None) -> None:
        self._qemu = qemu
        self._into = into
        self._own = own
        self._brought: dict[Path, ChainFile] = {}
        self.foreign: dict[str, Foreign] = {}

    def bring(self, tops: Mapping[Path, Literal["qcow2", "raw"]]) -> dict[Path, str]:
        """Bring disks with all that they are overlays of.

        Args:
            tops: Each disk's topmost file, and its format.

        Returns:
            The new name of each disk's topmost file.

        Raises:
            HostError: A file cannot be read, or there is no room for it.
        """
        # All before the first file is given another backing, which those see that share it.
        chains = [disk.chain(top, format, qemu=self._qemu) for top, format in tops.items()]
        for chain in chains:
            below: ChainFile | None = None
            for layer in reversed(chain):
                if layer.path not in self._brought:
                    self._brought[layer.path] = self._place(layer, below)
                below = self._brought[layer.path]
        return {top: self._brought[top].path.name for top in tops}

    def _place(self, layer: ChainFile, below: ChainFile | None) -> ChainFile:
        placed = ChainFile(Path(f"{len(self._brought)}.disk"), layer.format)
        target = self._into / placed.path
        if not (self._may_link(layer.path, below) and _link(layer.path, target)):
            copy_sparse(target, layer.path)
        if below is not None:
            disk.rebase(target, below, qemu=self._qemu)
        if target.stat().st_nlink > 1 and not layer.path.is_relative_to(self._own):
            self.foreign[target.name] = Foreign.of(layer.path, target)
        return placed

    def _may_link(self, path: Path, below: ChainFile | None) -> bool:
        """A file that will be written must be our own; and a link shows, which the cache minds."""
        foreign = below is None and not path.is_relative_to(cache_dir())
        return foreign or path.is_relative_to(self._own)


def _link(source: Path, target: Path) -> bool:
    with suppress(OSError):  # another file system, or a file that this user may only read
        target.hardlink_to(source.resolve())
        return True
    return False
