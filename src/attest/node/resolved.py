"""A manifest's node with all that was decided for it: image, VMM, place on the networks."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from attest.disk.machine_disks import Disks
from attest.errors import AttestError, HostError, MachineError, ManifestError
from attest.guest.agent.channel import AgentChannel
from attest.guest.channel import Channel
from attest.guest.identity import Identity, Interface
from attest.image.model import Image
from attest.manifest import Node, VmmName
from attest.net.bridge import SPARE, Attachment, make_taps, set_cable
from attest.net.cell import Cell
from attest.snapshot.shape import Shape, host_cpu
from attest.support.nix_sandbox import remedy
from attest.vmm.base import MachineSpec, Nic, Saved, Vmm, VmmExit
from attest.vmm.program import Binary
from attest.vmm.qemu.binary import QemuBinary, find_qemu
from attest.vmm.qemu.command_line import cpu_model
from attest.vmm.qemu.nested import check_machine
from attest.vmm.registry import BACKENDS, Backend, Lack, choose, lacks

__all__ = ["ResolvedNode", "find_vmm", "attachments_of"]

_SEED: Final = 64
"""Bytes of the host's randomness for each machine."""

_KEYS: Final = {
    "q35": "machine", "serial": "channel", "vsock": "channel", "compressed": "image",
}  # fmt: skip
"""The keys of a node that ask for a capability of another name."""

OnExit = Callable[[VmmExit], None]
OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass
class ResolvedNode:
    """Where a machine belongs.

    Attributes:
        name: The machine's name.
        number: Its number in the cluster, which its addresses end with.
        node: What the manifest says of it.
        image: What it boots.
        accelerator: ``"kvm"`` or ``"tcg"``.
        vmm: The name of the VMM that runs it, unless the node names one.
        programs: Paths of VMMs' programs by the VMM's name; those that miss are the host's.
        cell: Where its VMM lives.
        directory: Its own scratch directory.
        hosts: The lines for its ``/etc/hosts``.
        machine_id: Its own.
        backend: The VMM that runs it.
        binary: The VMM's program.
        qemu: The QEMU of its cluster, which may be that.

    Raises:
        ManifestError: Its VMM cannot do what the node asks for.
        HostError: Its VMM cannot run here.
    """

    name: str
    number: int
    node: Node
    image: Image
    accelerator: str
    vmm: VmmName
    programs: Mapping[str, str]
    cell: Cell
    directory: Path
    hosts: Callable[[], str]
    relative_to: Path
    machine_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    backend: Backend = field(init=False)
    binary: Binary = field(init=False)
    qemu: QemuBinary = field(init=False)

    def __post_init__(self) -> None:
        self.backend, self.binary = find_vmm(
            self.name, self.node, self.vmm, self.programs, self.accelerator, self.image
        )
        self.qemu = find_qemu(self.programs.get("qemu", ""))
        if self.node.nested:
            check_machine(
                self.name, self.image, self.node.vcpus, self.accelerator, self.qemu.version
            )
        self.directory.mkdir(parents=True)
        self.disks = Disks(
            self.directory, self.node.disks, self.relative_to, self.backend.disk_format,
            self.qemu,
        )  # fmt: skip
        self._shape: Shape | None = None
        self._numbers = itertools.count()
        self._spare_lock = threading.Lock()
        self._spare_taps: list[str] = []

    def new_directory(self, purpose: str) -> Path:
        """A new directory in the machine's own."""
        path = self.directory / f"{purpose}{next(self._numbers)}"
        path.mkdir()
        return path

    @property
    def nested_in_emulation(self) -> bool:
        """It runs machines itself, with KVM that QEMU emulates."""
        return self.node.nested and self.accelerator == "tcg"

    @property
    def attachments(self) -> list[Attachment]:
        """Its places on the networks, in the order of its network cards."""
        return attachments_of(self.node, self.number)

    @property
    def warm_until(self) -> str:
        """The unit that must be active before a snapshot of its shape is made."""
        return self.node.warm_until or self.node.ready_unit

    def shape(self) -> Shape:
        """What decides the content of the snapshot that it has started from, or would."""
        return self._shape or self.look_at_shape()

    def look_at_shape(self) -> Shape:
        """The same as it is now, and as `shape` has it from then on.

        Whoever starts the machine with disks as declared looks: a disk's image may have been
        changed since the last start.
        """
        node = self.node
        self._shape = Shape(
            image=self.image.digest, image_name=self.image.name, vmm=self.binary.identity,
            accelerator=self.accelerator, cpu=host_cpu(), machine=node.machine,
            memory=node.memory, vcpus=node.vcpus, nics=len(self.attachments),
            disks=tuple(self.disks.contents()), hugepages=node.hugepages,
            warm_until=self.warm_until, warm_steps=tuple(node.warm_steps),
            cpu_model=cpu_model(self.qemu, self.accelerator, nested=node.nested),
            channel=node.channel or "", balloon=node.balloon, graphics=node.graphics,
            macs=tuple(each.mac for each in self.attachments) if node.own_identity else (),
        )  # fmt: skip
        return self._shape

    def identity(self) -> Identity:
        """Who the machine is to be, from now on."""
        identity = Identity(
            machine_id=self.machine_id, seed=os.urandom(_SEED), clock_ns=time.time_ns()
        )
        if self.node.own_identity:
            return identity
        return replace(
            identity,
            hostname=self.name,
            hosts=self.hosts(),
            interfaces=tuple(
                Interface(
                    index=index, mac=each.mac, addresses=each.addresses, up=each.vlan != SPARE
                )
                for index, each in enumerate(self.attachments)
            ),
        )

    def start_vmm(
        self, allow_reboot: bool, saved: Saved | None, on_exit: OnExit, on_event: OnEvent
    ) -> Vmm:
        """Start its VMM, with disks that go with ``saved``, or those that it had.

        One that continues ``saved`` is paused; see `attest.machine.contracts.StartVmm`.
        """
        if allow_reboot and (reason := self.backend.capabilities.reboot):
            raise MachineError(
                self.name, f"start(allow_reboot=True): {reason}", hint=_able("reboot")
            )
        disks = self.disks.begin() if saved is None else self.disks.overlay(saved.disks)
        spec = replace(
            self.spec(), allow_reboot=allow_reboot, saved=saved, disks=disks,
            paused=saved is not None,
        )  # fmt: skip
        return self.start(spec, on_exit, on_event)

    def boot_template(
        self, into: Path, nics: tuple[Nic, ...], on_exit: OnExit, on_event: OnEvent
    ) -> Vmm:
        """Boot a machine of its shape, off the networks, whose memory and disks are in ``into``."""
        spec = replace(
            self.spec(),
            nics=nics,
            memory_file=None if self.node.hugepages else into / "memory",
            disks=self.disks.fresh(into),
            prefault=False,
        )
        return self.start(spec, on_exit, on_event)

    def make_channel(self, name: str, sock: socket.socket, padding: bool) -> Channel:
        """The connection to its agent; see `attest.machine.contracts.MakeChannel`."""
        return AgentChannel(name, sock, padding=padding)

    @contextmanager
    def spare_nics(self) -> Iterator[tuple[Nic, ...]]:
        """Network cards that are on no network, for a machine of its shape that meets no other.

        One at a time has them.
        """
        with self._spare_lock:
            if not self._spare_taps:
                self._spare_taps = [f"{each.tap}s" for each in self.attachments]
                make_taps(self.cell, self._spare_taps)
            yield tuple(
                Nic(tap, each.mac)
                for tap, each in zip(self._spare_taps, self.attachments, strict=True)
            )

    def spec(self) -> MachineSpec:
        """The machine as it would boot."""
        return MachineSpec(
            name=self.name, image=self.image, memory=self.node.memory, vcpus=self.node.vcpus,
            machine=self.node.machine, accelerator=self.accelerator, directory=self.directory,
            nics=tuple(Nic(each.tap, each.mac) for each in self.attachments),
            hugepages=self.node.hugepages, prefault=self.node.prefault, nested=self.node.nested,
            graphics=self.node.graphics,
            channel=self.node.channel, balloon=self.node.balloon, jail=self.node.jail,
        )  # fmt: skip

    def set_links(self, vmm: Vmm, up: bool) -> None:
        """Plug or unplug its cards on networks, or where the VMM cannot, the other ends' cables."""
        for index, each in enumerate(self.attachments):
            if each.vlan == SPARE:
                continue
            if self.backend.capabilities.set_link:
                set_cable(self.cell, each, up)
            else:
                vmm.set_link(index, up)

    def start(self, spec: MachineSpec, on_exit: OnExit, on_event: OnEvent) -> Vmm:
        """Start a VMM in the cell."""
        enter = self.cell.enter_as_root if spec.jail else self.cell.enter
        return self.backend.start(
            spec, self.binary, enter=enter, on_exit=on_exit, on_event=on_event
        )


def attachments_of(node: Node, number: int) -> list[Attachment]:
    """A node's places on the networks, in the order of its network cards.

    Args:
        node: The node.
        number: Its number in the cluster.
    """
    vlans = [SPARE, *node.vlans] if node.spare_eth0 else node.vlans
    return [Attachment(vlan, number, node.ipv6) for vlan in vlans]


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
    return ManifestError(f"nodes.{name}.{key}: {lack.reason}", hint=_able(lack.wanted))


def _able(wanted: str) -> str:
    """Who can, as a hint."""
    able = [each.name for each in BACKENDS.values() if not getattr(each.capabilities, wanted)]
    return " or ".join(f'`vmm = "{each}"`' for each in able) + " can"
