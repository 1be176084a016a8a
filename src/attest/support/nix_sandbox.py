"""Builds by Nix: what their sandbox lacks, and what the builder's settings lend it.

A sandboxed build sees neither the host's devices nor ``/sys``, and nothing that it does itself
changes that. Where one can be had by a command on the host, a build gets it by settings alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["in_build", "in_sandbox", "remedy"]

_KVM: Final = Path("/dev/kvm")


def in_build() -> bool:
    """Whether this process is part of a build; a shell of Nix's only looks like one."""
    return "NIX_BUILD_TOP" in os.environ and "NIX_LOG_FD" in os.environ


def in_sandbox() -> bool:
    """Whether this process runs in the sandbox of a Nix build."""
    return in_build() and not Path("/sys/devices").exists()


def remedy(device: Path, otherwise: str) -> str:
    """What to do about a device that cannot be used, as an error's hint.

    Args:
        device: Its path.
        otherwise: What to do where it is not the sandbox of a build that hides it.
    """
    if not in_sandbox() or device.exists():
        return otherwise
    if device == _KVM:
        return (
            'in the derivation: `requiredSystemFeatures = [ "kvm" ];`; that takes a builder with '
            'KVM and, where it sets its features, "kvm" in `nix.settings.system-features`'
        )
    return (
        f'in the builder\'s settings: `nix.settings.extra-sandbox-paths = [ "{device}" ];`, or '
        f"`extra-sandbox-paths = {device}` in its nix.conf"
    )
