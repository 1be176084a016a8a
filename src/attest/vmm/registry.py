"""The VMMs that there are, and which of them runs a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from attest.errors import HostError
from attest.manifest import VmmName
from attest.support.validation import check_choice
from attest.vmm import capabilities
from attest.vmm.base import MachineSpec, OnEvent, OnExit, Vmm
from attest.vmm.capabilities import Capabilities
from attest.vmm.program import Binary

__all__ = ["AUTO", "BACKENDS", "Backend", "Lack", "Start", "check_vmm_names", "choose", "lacks"]

AUTO: Final = "auto"
"""Stands for the first of `_PREFERRED` that can run a machine."""


class Start(Protocol):
    """Starts a VMM."""

    def __call__(
        self,
        spec: MachineSpec,
        binary: Any,  # of the same module's `find`
        *,
        enter: Callable[[Sequence[str]], list[str]],
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> Vmm:
        """Start it, see `attest.vmm.qemu.vmm.Qemu`."""


class Backend(msgspec.Struct, frozen=True):
    """A kind of VMM.

    Attributes:
        name: What manifests and options call it.
        capabilities: What it can do.
        find: Finds its program: the one at a path, or without that the host's.
        start: Runs a machine with it.
        disk_format: The format of its machines' disks: qcow2, of which there can be overlays, or
            raw, which is copied instead.
    """

    name: str
    capabilities: Capabilities
    find: Callable[[str], Binary]
    start: Start
    disk_format: Literal["qcow2", "raw"]


class Lack(msgspec.Struct, frozen=True):
    """What a machine wants and a VMM cannot do.

    Attributes:
        wanted: The capability's name, which is a node's key mostly.
        reason: Why not.
    """

    wanted: str
    reason: str


# What one VMM needs is imported when a machine runs on it: that takes a while.


def _find_qemu(program: str) -> Binary:
    from attest.vmm.qemu.binary import find_qemu

    return find_qemu(program)


def _start_qemu(*machine: Any, **callbacks: Any) -> Vmm:
    from attest.vmm.qemu.vmm import Qemu

    return Qemu(*machine, **callbacks)


def _find_firecracker(program: str) -> Binary:
    from attest.vmm.firecracker.binary import find_firecracker

    return find_firecracker(program)


def _start_firecracker(*machine: Any, **callbacks: Any) -> Vmm:
    from attest.vmm.firecracker.vmm import Firecracker

    return Firecracker(*machine, **callbacks)


def _find_cloud_hypervisor(program: str) -> Binary:
    from attest.vmm.cloud_hypervisor.binary import find_cloud_hypervisor

    return find_cloud_hypervisor(program)


def _start_cloud_hypervisor(*machine: Any, **callbacks: Any) -> Vmm:
    from attest.vmm.cloud_hypervisor.vmm import CloudHypervisor

    return CloudHypervisor(*machine, **callbacks)


QEMU: Final = Backend("qemu", capabilities.QEMU, _find_qemu, _start_qemu, "qcow2")
FIRECRACKER: Final = Backend(
    "firecracker", capabilities.FIRECRACKER, _find_firecracker, _start_firecracker, "raw"
)
CLOUD_HYPERVISOR: Final = Backend(
    "cloud-hypervisor",
    capabilities.CLOUD_HYPERVISOR,
    _find_cloud_hypervisor,
    _start_cloud_hypervisor,
    "raw",
)

BACKENDS: Final[Mapping[str, Backend]] = {
    each.name: each for each in (QEMU, FIRECRACKER, CLOUD_HYPERVISOR)
}

_PREFERRED: Final = (FIRECRACKER, CLOUD_HYPERVISOR)
"""What ``auto`` takes before QEMU, where it can: what starts machines soonest comes first."""


def lacks(backend: Backend, wants: Mapping[str, bool]) -> Iterator[Lack]:
    """What a machine wants and the VMM cannot do, by the names of `Capabilities`.

    What is so on every host comes first.
    """
    for name in Capabilities.__struct_fields__:
        reason: str = getattr(backend.capabilities, name)
        if reason and wants.get(name):
            yield Lack(name, reason)


def choose(
    wanted: VmmName, wants: Mapping[str, bool], programs: Mapping[str, str]
) -> tuple[Backend, Binary]:
    """The VMM that runs a machine, and its program.

    Args:
        wanted: Its name, or ``"auto"`` for the first that is on this host and can run the machine.
        wants: What the machine wants, by the names of `Capabilities`.
        programs: Paths of programs by the VMM's name; empty or missing: the host's.

    Raises:
        UsageError: There is no VMM of such a name.
        HostError: It is not on this host.
    """
    check_vmm_names(wanted, programs)
    if wanted != AUTO:
        backend = BACKENDS[wanted]
        return backend, backend.find(programs.get(wanted, ""))
    for backend in _PREFERRED:
        if not any(lacks(backend, wants)):
            try:
                return backend, backend.find(programs.get(backend.name, ""))
            except HostError:
                continue
    return QEMU, QEMU.find(programs.get(QEMU.name, ""))


def check_vmm_names(vmm: str, programs: Mapping[str, str]) -> None:
    """Check that there are such VMMs.

    Args:
        vmm: The name of one, or ``"auto"``.
        programs: Paths of programs by the VMM's name.

    Raises:
        UsageError: There is none of such a name.
    """
    check_choice(vmm, [AUTO, *BACKENDS], "vmm")
    for name in programs:
        check_choice(name, BACKENDS, "programs")
