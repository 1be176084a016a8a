"""Which VMM runs a node, and whether it can do what the node asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attest.errors import AttestError, HostError, ManifestError
from attest.image.model import Image
from attest.manifest import Node, VmmName
from attest.support.nix_sandbox import remedy
from attest.vmm.program import Binary
from attest.vmm.registry import BACKENDS, Backend, Lack, choose, lacks

__all__ = ["find_vmm", "who_can"]

_KEYS: Final = {
    "q35": "machine", "serial": "channel", "vsock": "channel", "compressed": "image",
}  # fmt: skip
"""The keys of a node that ask for a capability of another name."""


def find_vmm(
    name: str,
    node: Node,
    vmm: VmmName,
    programs: Mapping[str, str],
    accelerator: str,
    image: Image | None = None,
) -> tuple[Backend, Binary]:
    """The VMM that runs a node, and its program.

    Args:
        name: The node's name.
        node: The node.
        vmm: The VMM's name, unless the node names one.
        programs: Paths of VMMs' programs by the VMM's name; those that miss are the host's.
        accelerator: ``"kvm"`` or ``"tcg"``.
        image: What it boots, where that is known already.

    Raises:
        ManifestError: It cannot do what the node asks for.
        HostError: It cannot run here.
    """
    wants = _wants(node, accelerator, image)
    backend, binary = choose(node.vmm or vmm, wants, programs)
    for lack in lacks(backend, wants):
        raise _refusal(name, lack)
    return backend, binary


def _wants(node: Node, accelerator: str, image: Image | None) -> dict[str, bool]:
    """What a node asks for, by the names of `attest.vmm.capabilities.Capabilities`."""
    return {
        "tcg": accelerator == "tcg",
        "q35": node.machine == "q35",
        "disks": bool(node.disks),
        "hugepages": node.hugepages,
        "prefault": node.prefault,
        "nested": node.nested,
        "graphics": node.graphics,
        "serial": node.channel == "serial",
        "vsock": node.channel == "vsock",
        "balloon": node.balloon,
        "jail": node.jail,
        "compressed": image is not None and image.vmlinux is None,
    }


def _refusal(name: str, lack: Lack) -> AttestError:
    if lack.wanted == "tcg":
        return HostError(
            f"{name}: {lack.reason}, and this run is without",
            hint=remedy(
                Path("/dev/kvm"),
                "`attest doctor` says whether KVM works here; QEMU runs without: --vmm qemu",
            ),
        )
    key = _KEYS.get(lack.wanted, lack.wanted)
    return ManifestError(f"nodes.{name}.{key}: {lack.reason}", hint=who_can(lack.wanted))


def who_can(wanted: str) -> str:
    """Which VMMs have a capability, as a hint.

    Args:
        wanted: The capability's name.
    """
    able = [each.name for each in BACKENDS.values() if not getattr(each.capabilities, wanted)]
    return " or ".join(f'`vmm = "{each}"`' for each in able) + " can"
