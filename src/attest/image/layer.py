"""Layers: what each step of a recipe adds to the steps below it.

A layer's directory has `layer.json` and `tree`, the files that the step has made or changed, as
overlayfs keeps them: what is removed is there as a whiteout. A kernel's has `vmlinuz` and `vmlinux`
beside its tree, which are no part of the root.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Layer", "visible"]


class Layer(msgspec.Struct, frozen=True):
    """What `layer.json` says of a layer.

    Attributes:
        digest: SHA-256 (hexadecimal) of its content.
        whole: Its tree has all that is below it, too, as it was made without overlayfs.
        epoch: The time of the newest package in it or below it, in seconds since the epoch; no file
            is younger.
        size: Bytes on disk.
        built: When it was made, in seconds since the epoch.
        seconds: How long that took.
    """

    digest: str
    whole: bool
    epoch: int
    size: int
    built: float
    seconds: float


def visible(stack: Sequence[Layer]) -> Sequence[Layer]:
    """Those of a stack, from the bottom up, that its tree is put together from."""
    whole = [number for number, layer in enumerate(stack) if layer.whole]
    return stack[whole[-1] :] if whole else stack
