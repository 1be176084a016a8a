"""An image: what a machine boots. Where it comes from is for the image store and others to know."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["Image"]


class Image(msgspec.Struct, frozen=True):
    """An immutable guest.

    Attributes:
        digest: SHA-256 (hexadecimal) of all it consists of.
        name: Its recipe's or description's name.
        arch: The guest's architecture, as ``uname -m`` has it.
        path: Its directory.
        kernel: The kernel as a boot loader takes it (``bzImage`` on x86).
        vmlinux: The kernel uncompressed (ELF on x86); None where only QEMU is to boot it.
        initrd: The initrd: agent, modules, and for ``tiny`` all the rest.
        root: The root file system (ext4, mostly), or None when the initrd is all there is.
        cmdline: Kernel parameters that this image wants.
        init: What process 1 becomes: ``"systemd"`` or ``"agent"``.
        content: The digest of what it shares with images that differ in agent, name and kernel
            parameters only; empty outside the store.
        kernel_version: As ``uname -r`` has it.
        recipe: The recipe's or description's file.
        built: Seconds since the epoch; 0 outside the store.
        kvm: The modules for hardware virtualisation that it can load.
        own_initrd: The initrd is none of attest's: it finds and mounts the root by itself.
        root_label: With that, the label of the file system on a disk of the machine's own, which
            the initrd mounts as the root; empty: it needs none.
    """

    digest: str
    name: str
    arch: str
    path: Path
    kernel: Path
    vmlinux: Path | None
    initrd: Path
    root: Path | None
    cmdline: tuple[str, ...]
    init: str
    content: str = ""
    kernel_version: str = ""
    recipe: str = ""
    built: float = 0.0
    kvm: tuple[str, ...] = ()
    own_initrd: bool = False
    root_label: str = ""

    @property
    def root_disk(self) -> Literal["changes", "files"] | None:
        """What a machine writes to its root, on a disk of its own; None where it cannot.

        ``"changes"``: the blocks of the root's file system that have changed. ``"files"``: an ext4
        file system, which is the root, or holds those files that are not in it as the image has
        them.
        """
        if self.own_initrd:
            return "files" if self.root_label else None
        if self.root is None:
            return None
        return "changes" if _is_ext4(self.root) else "files"

    def parameters(self, root: str, overlay: str = "", root_size: int = 0) -> list[str]:
        """The kernel parameters that it wants, and those that its initrd reads.

        Args:
            root: The root's disk, by its serial number or the path of its device.
            overlay: The disk for what the machine writes to its root, likewise; empty: memory.
            root_size: That root's size in MiB.
        """
        parameters = []
        if self.root is not None and not self.own_initrd:
            parameters.append(f"attest.root={root}")
            if overlay:
                parameters += [f"attest.overlay={overlay}", f"attest.root_size={root_size}"]
        return [*parameters, *self.cmdline]

    @property
    def size(self) -> int:
        """Bytes on disk, those included that it shares with others."""
        return sum(file.stat().st_size for file in self.path.iterdir())

    @property
    def last_used(self) -> float:
        """When it was last built or looked up to be booted, in seconds since the epoch."""
        return (self.path / "image.json").stat().st_mtime


def _is_ext4(file: Path) -> bool:
    """Whether its superblock says so, see Documentation/filesystems/ext4 of the kernel."""
    with file.open("rb") as opened:
        opened.seek(1024 + 56)
        return opened.read(2) == b"\x53\xef"
