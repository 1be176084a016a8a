"""Layers: what is expensive to make of an image, and shared by all images of the same content.

A layer's directory has the kernel (`vmlinuz`; uncompressed, `vmlinux`), the part of the initrd that
does not depend on the agent (`initrd.base`), for Debian the root (`root.ext4`), and `layer.json`.
Its digest is that of these contents.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["CONTENT", "Layer"]

CONTENT: Final = ("vmlinuz", "vmlinux", "initrd.base", "root.ext4")
"""A layer's files; ``root.ext4`` is optional."""


class Layer(msgspec.Struct, frozen=True):
    """What `layer.json` says of a layer.

    Attributes:
        digest: SHA-256 of its content, hexadecimal.
        kernel_version: As ``uname -r`` has it.
        packages: Installed packages, ``name version``.
        kvm: The modules for hardware virtualisation that its kernel can load.
    """

    digest: str
    kernel_version: str
    packages: list[str]
    kvm: tuple[str, ...] = ()
