"""A machine's disks: which file each is at any time.

They are those that are declared and, where its root lasts, one for what it writes to that.

A disk is a file that grows with what the guest writes. Of qcow2 disks a snapshot freezes the files
in use, and the machine goes on with overlays of them; a clone begins with overlays. Nothing is
copied. Raw disks, for VMMs that know no others, are copied instead, as sparse files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from attest.disk import qemu_img as disk
from attest.disk.overlay import write_overlay
from attest.errors import ManifestError
from attest.manifest import Disk
from attest.support.sparse_copy import copy_sparse
from attest.vmm.qemu.binary import QemuBinary

__all__ = ["Disks", "RootDisk"]


_BLOCKS_TOLD: Final = 128
"""device-mapper writes down where each changed block is: 16 bytes for each of 4096, of which this
is twice as much (drivers/md/dm-snap-persistent.c)."""

_CHANGES_MORE: Final = 8
"""MiB that there are besides."""


class RootDisk(msgspec.Struct, frozen=True):
    """The disk for what a machine writes to its root.

    Attributes:
        holds: See `attest.image.model.Image.root_disk`.
        size: The root's size in MiB.
        label: Of its file system, where it holds one.
        image: The disk that it begins as, which stays as it is; None: nothing was written.
    """

    holds: Literal["changes", "files"]
    size: int
    label: str = ""
    image: Path | None = None


class Disks:
    """The disks of one machine.

    Args:
        directory: Where their files are made.
        declared: What the manifest says of them.
        root: The disk that follows them, where its root lasts.
        relative_to: What paths of images are relative to.
        kept: The directory whose images are such files, which were kept; None: none are.
        format: That of the files.
        qemu: The QEMU in use, whose ``qemu-img`` makes them.

    Attributes:
        declared: What the manifest says of them, with absolute paths.

    Raises:
        ManifestError: An image does not exist.
    """

    def __init__(
        self,
        directory: Path,
        declared: Sequence[Disk],
        root: RootDisk | None,
        relative_to: Path,
        format: Literal["qcow2", "raw"],
        qemu: QemuBinary,
        kept: Path | None = None,
    ) -> None:
        self._qemu = qemu
        self._format = format
        self._directory = directory
        self.declared = [
            Disk(image=str(_image(relative_to, each.image))) if each.image else each
            for each in declared
        ]
        self._root = root
        self._kept = kept.resolve() if kept else None
        self._count = len(self.declared) + (root is not None)
        self._numbers = itertools.count()
        self._current: tuple[Path, ...] = ()

    @property
    def written(self) -> bool:
        """Whether the machine has had them, so that they are not as declared any more."""
        return bool(self._current)

    @property
    def begun(self) -> bool:
        """Whether a machine has written to them, in this cluster or in the one they are kept of."""
        kept = [each for each in self.declared if self._was_kept(each)]
        return self.written or bool(kept or (self._root and self._root.image))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the machine has now, one for each disk; empty before its first start."""
        return self._current

    def contents(self) -> Iterator[str]:
        """What each holds at first, so described that a change is another description."""
        for each in self.declared:
            if each.image is None:
                yield f"empty {each.size} MiB"
            else:
                status = Path(each.image).stat()
                yield f"{each.image} {status.st_size} {status.st_mtime_ns}"
        if self._root:
            yield f"root of {self._root.size} MiB: {self._root.holds} {self._root.label}".rstrip()

    def fresh(self, directory: Path) -> tuple[Path, ...]:
        """Files as declared, named ``disk0`` and so on, in another directory."""
        files = tuple(directory / f"disk{index}" for index in range(self._count))
        if self._root:
            self._make_root(files[-1], self._root)
        for file, each in zip(files, self.declared, strict=False):
            backing = Path(each.image) if each.image else None
            known = self._format if self._was_kept(each) else ""
            disk.create(
                file, each.size, backing, self._format, backing_format=known, qemu=self._qemu
            )
        return files

    def begin(self) -> tuple[Path, ...]:
        """The files as they are, or, at the first time, as declared."""
        if self._count and not self._current:
            directory = self._directory / f"disks{next(self._numbers)}"
            directory.mkdir()
            self._current = self.fresh(directory)
        return self._current

    def overlay(self, frozen: Sequence[Path]) -> tuple[Path, ...]:
        """New overlays of a snapshot's disks; the files that were in use go."""
        before = self._current
        self._current = self.names()
        self._make(self._current, frozen)
        for file in before:
            file.unlink(missing_ok=True)
        return self._current

    def copies(self, frozen: Sequence[Path], directory: Path) -> tuple[Path, ...]:
        """Copies of a snapshot's disks, named ``disk0`` and so on, in another directory."""
        files = tuple(directory / f"disk{index}" for index in range(len(frozen)))
        for file, source in zip(files, frozen, strict=True):
            copy_sparse(file, source)
        return files

    def throw_away(self, frozen: Sequence[Path], directory: Path) -> tuple[Path, ...]:
        """Overlays of a snapshot's disks for a VMM that never runs, in another directory."""
        files = tuple(directory / f"unused{index}" for index in range(len(frozen)))
        self._make(files, frozen)
        return files

    def forget(self) -> None:
        """Remove the files, so that the next `begin` makes them as declared."""
        for file in self._current:
            file.unlink(missing_ok=True)
        self._current = ()

    def names(self) -> tuple[Path, ...]:
        """New paths, at which there is nothing yet, one for each disk."""
        number = next(self._numbers)
        return tuple(self._directory / f"disk{index}-{number}" for index in range(self._count))

    def freeze(self, fork: Callable[[Sequence[Path]], None]) -> tuple[Path, ...]:
        """Keep what is on the disks of a machine that stands still.

        Args:
            fork: Lets the machine go on with new overlays, which this makes at given paths.

        Returns:
            Files that stay as they are.
        """
        fresh, current = self.names(), self._current
        if self._format == "raw":
            self._make(fresh, current)
            return fresh
        if fresh:
            fork(fresh)
        self._current = fresh
        return current

    def _was_kept(self, declared: Disk) -> bool:
        kept = self._kept
        return bool(kept and declared.image and Path(declared.image).is_relative_to(kept))

    def _make_root(self, file: Path, root: RootDisk) -> None:
        if root.image is not None:
            self._make([file], [root.image])
        elif root.holds == "changes":
            size = root.size + root.size // _BLOCKS_TOLD + _CHANGES_MORE
            disk.create(file, size, format=self._format, qemu=self._qemu)
        else:
            disk.create_ext4(file, root.size, root.label, self._format, qemu=self._qemu)

    def _make(self, files: Sequence[Path], frozen: Sequence[Path]) -> None:
        for file, backing in zip(files, frozen, strict=True):
            if self._format == "raw":
                copy_sparse(file, backing)
            else:
                write_overlay(file, backing)


def _image(relative_to: Path, name: str) -> Path:
    path = (relative_to / name).resolve()
    if not path.is_file():
        raise ManifestError(f"disks: {path} is no file", hint="give the path of a disk image")
    return path
