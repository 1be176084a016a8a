"""How a cluster is to run: what the command line and Python programs can both say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypedDict, get_args

import msgspec
from msgspec.structs import force_setattr

from attest.machine.instance_states import DEFAULT_LIMITS, Limits
from attest.manifest import Accelerator, VmmName
from attest.support.validation import check_choice
from attest.vmm.registry import check_vmm_names

__all__ = ["DEFAULT_OPTIONS", "ClusterOptions", "ClusterSettings"]


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster is to run.

    Attributes:
        accelerator: KVM, software emulation, or KVM where a guest has been seen running with it.
        cold: Boot each machine, instead of cloning it from a snapshot of a machine of its shape.
        save: Save each kind of machine that boots, so that later ones start as its clones.
        snapshots: A directory that `Cluster.make_snapshots` has filled, which may be read-only.
            Machines that it has no snapshot for boot; the cache is not used.
        vmm: The VMM of the nodes that name none; ``"auto"`` for the first of Firecracker, Cloud
            Hypervisor and QEMU that is here and can run them.
        programs: Paths of VMMs' programs by the VMM's name, before the manifest's and the host's.
            That of ``"qemu"`` also tries KVM and, with the ``qemu-img`` beside it, makes disks.
        hugepages: Take the memory of all machines from the host's reserved huge pages.
        out_dir: Where logs and artefacts go; made when missing. Default: a temporary directory
            that goes with the cluster.
        state_dir: Where the start scripts' directories go, which are then kept from one cluster to
            the next; default: among the cluster's temporary files.
        limits: How long each step of a machine's start may take.
    """

    accelerator: Accelerator = "auto"
    cold: bool = False
    save: bool = True
    snapshots: Path | None = None
    vmm: VmmName = "qemu"
    programs: Mapping[str, str] = {}
    hugepages: bool = False
    out_dir: Path | None = None
    state_dir: Path | None = None
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        for name in ("snapshots", "out_dir", "state_dir"):
            if isinstance(path := getattr(self, name), str):
                force_setattr(self, name, Path(path) if path else None)
        check_vmm_names(self.vmm, self.programs)
        check_choice(self.accelerator, get_args(Accelerator), "accelerator")


DEFAULT_OPTIONS: Final = ClusterOptions()


class ClusterSettings(TypedDict, total=False):
    """The fields of `ClusterOptions`, as keyword arguments, of which paths may be texts."""

    accelerator: Accelerator
    cold: bool
    save: bool
    snapshots: Path | str | None
    vmm: VmmName
    programs: Mapping[str, str]
    hugepages: bool
    out_dir: Path | str | None
    state_dir: Path | str | None
    limits: Limits
