"""A manifest's node with all that was decided for it: image, VMM, number, addresses."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from attest.disk.machine_disks import RootDisk
from attest.errors import ManifestError
from attest.guest.identity import Identity, Interface
from attest.image.model import Image
from attest.manifest import Node, VmmName
from attest.net.bridge import SPARE, Attachment
from attest.node.attachments import attachments_of
from attest.node.vmm_choice import find_vmm
from attest.snapshot.shape import Shape, host_cpu
from attest.vmm.base import MachineSpec, Nic
from attest.vmm.program import Binary
from attest.vmm.qemu.binary import QemuBinary, find_qemu
from attest.vmm.qemu.command_line import cpu_model
from attest.vmm.qemu.nested import check_machine
from attest.vmm.registry import Backend

__all__ = ["ResolvedNode", "resolve"]

_ROOT_SIZE: Final = 8192
"""MiB of a root on a disk; what nobody has written takes no room on the host."""

_SEED: Final = 64
"""Bytes of the host's randomness for each machine."""


class ResolvedNode(msgspec.Struct, eq=False):
    """A node, and what was decided for it; `resolve` makes it.

    Attributes:
        name: The machine's name.
        number: Its number in the cluster, which its addresses end with.
        declared: What the manifest says of it.
        image: What it boots.
        accelerator: ``"kvm"`` or ``"tcg"``.
        backend: The VMM that runs it.
        binary: The VMM's program.
        qemu: The QEMU of its cluster, which may be that.
        root_disk: The disk for what it writes to its root; None: that is in its memory.
        machine_id: Its own, for ``/etc/machine-id``.
    """

    name: str
    number: int
    declared: Node
    image: Image
    accelerator: str
    backend: Backend
    binary: Binary
    qemu: QemuBinary
    root_disk: RootDisk | None = None
    machine_id: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def nested_in_emulation(self) -> bool:
        """It runs machines itself, with KVM that QEMU emulates."""
        return self.declared.nested and self.accelerator == "tcg"

    @property
    def attachments(self) -> list[Attachment]:
        """Its places on the networks, in the order of its network cards."""
        return attachments_of(self.declared, self.number)

    @property
    def warm_until(self) -> str:
        """The unit that must be active before a snapshot of its shape is made."""
        return self.declared.warm_until or self.declared.ready_unit

    def twin(self, name: str, number: int) -> ResolvedNode:
        """The same for another machine, with this name and number, and an id of its own."""
        root = self.root_disk and replace(self.root_disk, image=None)
        machine_id = uuid.uuid4().hex
        return replace(self, name=name, number=number, root_disk=root, machine_id=machine_id)

    def shape(self, disks: Iterable[str], files: Iterable[str] = ()) -> Shape:
        """What decides the content of its snapshot.

        Args:
            disks: What its disks hold at first.
            files: What is copied into it.
        """
        node = self.declared
        return Shape(
            image=self.image.digest, image_name=self.image.name, vmm=self.binary.identity,
            accelerator=self.accelerator, cpu=host_cpu(), machine=node.machine,
            memory=node.memory, vcpus=node.vcpus, nics=len(self.attachments),
            disks=tuple(disks), hugepages=node.hugepages,
            warm_until=self.warm_until, files=tuple(files), warm_steps=tuple(node.warm_steps),
            cpu_model=cpu_model(self.qemu, self.accelerator, nested=node.nested),
            channel=node.channel or "", balloon=node.balloon, graphics=node.graphics,
            macs=tuple(each.mac for each in self.attachments) if node.own_identity else (),
        )  # fmt: skip

    def identity(self, hosts: str) -> Identity:
        """Who the machine is to be, from now on.

        Args:
            hosts: The lines for its ``/etc/hosts``.
        """
        identity = Identity(
            machine_id=self.machine_id, seed=os.urandom(_SEED), clock_ns=time.time_ns()
        )
        if self.declared.own_identity:
            return identity
        return replace(
            identity,
            hostname=self.name,
            hosts=hosts,
            interfaces=tuple(
                Interface(
                    index=index, mac=each.mac, addresses=each.addresses, up=each.vlan != SPARE
                )
                for index, each in enumerate(self.attachments)
            ),
        )

    def spec(self, directory: Path) -> MachineSpec:
        """The machine as it would boot.

        Args:
            directory: A scratch directory of its own.
        """
        node = self.declared
        return MachineSpec(
            name=self.name, image=self.image, memory=node.memory, vcpus=node.vcpus,
            machine=node.machine, accelerator=self.accelerator, directory=directory,
            nics=tuple(Nic(each.tap, each.mac) for each in self.attachments),
            hugepages=node.hugepages, prefault=node.prefault, nested=node.nested,
            graphics=node.graphics, channel=node.channel, balloon=node.balloon, jail=node.jail,
            root_size=self.root_disk.size if self.root_disk else 0,
        )  # fmt: skip


def resolve(
    name: str,
    number: int,
    node: Node,
    image: Image,
    *,
    accelerator: str,
    vmm: VmmName,
    programs: Mapping[str, str],
) -> ResolvedNode:
    """Decide for a node what runs it.

    Args:
        name: The machine's name.
        number: Its number in the cluster.
        node: What the manifest says of it.
        image: What it boots.
        accelerator: ``"kvm"`` or ``"tcg"``.
        vmm: The VMM's name, unless the node names one.
        programs: Paths of VMMs' programs by the VMM's name; those that miss are the host's.

    Raises:
        ManifestError: Its VMM cannot do what the node asks for.
        HostError: Its VMM cannot run here.
    """
    backend, binary = find_vmm(name, node, vmm, programs, accelerator, image)
    qemu = find_qemu(programs.get("qemu", ""))
    if node.nested:
        check_machine(name, image, node.vcpus, accelerator, qemu.version)
    root = _root_disk(name, node, image)
    return ResolvedNode(name, number, node, image, accelerator, backend, binary, qemu, root)


def _root_disk(name: str, node: Node, image: Image) -> RootDisk | None:
    holds = image.root_disk
    if node.root == "memory" and node.root_size:
        raise ManifestError(
            f'nodes.{name}.root_size: with root = "memory" the root has half of that memory'
        )
    if holds is None or node.root == "memory":
        for key, asked in (("root", node.root == "disk"), ("root_size", node.root_size)):
            if asked:
                raise ManifestError(
                    f"nodes.{name}.{key}: the image {image.name} has its root in memory only"
                )
        return None
    size = node.root_size or _ROOT_SIZE
    # Of changes: what the image's file system has already.
    changed = image.root if holds == "changes" else None
    if changed is not None and size < (least := -(-changed.stat().st_size >> 20)):
        raise ManifestError(
            f"nodes.{name}.root_size: the image {image.name} needs {least} MiB, found {size}"
        )
    return RootDisk(holds, size, image.root_label)
