"""The content of images: all of them but the agent, the name, and kernel parameters.

Its directory has the kernel (`vmlinuz`; uncompressed, `vmlinux`), the part of the initrd that does
not depend on the agent (`initrd.base`), for Debian the root (`root.ext4`), and `content.json`.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["FILES", "Content", "Made"]

FILES: Final = ("vmlinuz", "vmlinux", "initrd.base", "root.ext4")
"""A content's files; ``root.ext4`` is optional."""


class Made(msgspec.Struct, frozen=True):
    """A layer, and the step of a recipe that it is the outcome of.

    Attributes:
        step: What the step does, in one line.
        layer: The layer's digest.
    """

    step: str
    layer: str


class Content(msgspec.Struct, frozen=True):
    """What `content.json` says.

    Attributes:
        digest: SHA-256 (hexadecimal) of its layers' digests, and of what the initrd is made of.
        kernel_version: As ``uname -r`` has it.
        packages: Installed packages, ``name version``.
        kvm: The modules for hardware virtualisation that its kernel can load.
        history: Its layers, from the bottom up.
    """

    digest: str
    kernel_version: str
    packages: list[str]
    kvm: tuple[str, ...] = ()
    history: tuple[Made, ...] = ()
