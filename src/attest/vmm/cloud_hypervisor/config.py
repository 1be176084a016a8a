"""What Cloud Hypervisor is told of a machine: its ``VmConfig``.

The server ignores what it does not know without a word, so the tests hold each name to its
description.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from attest.vmm.base import MachineSpec
from attest.vmm.cloud_hypervisor.landlock import landlock_version

__all__ = ["VSOCK", "vm_config"]

VSOCK: Final = "vsock"
"""Name of the vsock's socket in the process's working directory."""

_CID: Final = 3
"""The guest's address on its own vsock, to which no other machine has a connection."""

_LANDLOCK: Final = 3
"""The version that Cloud Hypervisor insists on, of Linux 6.2."""

_HUGE_PAGE: Final = 2 << 20

# As with QEMU, where the reasons are.
_KERNEL: Final = "console=ttyS0 loglevel=6 panic=-1 net.ifnames=0 random.trust_cpu=on"


def vm_config(spec: MachineSpec, directory: Path) -> dict[str, Any]:
    """The machine, for its boot or, as ``config.json``, for what continues a saved one.

    Those two differ in taps and in files of memory and disks alone: what has no id would get one,
    and saved state is found by it.

    Args:
        spec: What to run.
        directory: The process's working directory, in which it may write.
    """
    assert spec.image.vmlinux is not None, "a resolved node asks `Capabilities.compressed`"
    config: dict[str, Any] = {
        "cpus": {
            "boot_vcpus": spec.vcpus,
            "max_vcpus": spec.vcpus,
            "nested": False,
            "core_scheduling": "Off",  # no other VMM asks for it, and many kernels cannot
        },
        "memory": {"size": 0, "zones": [_memory(spec)]},  # the size of what is in no zone
        "payload": {
            "kernel": _absolute(spec.image.vmlinux),
            "initramfs": _absolute(spec.image.initrd),
            "cmdline": _kernel_arguments(spec),
        },
        "rng": {"id": "rng", "src": "/dev/urandom"},
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
        "vsock": {"id": "vsock", "cid": _CID, "socket": VSOCK},
    }
    disks = [_disk(name, path) for name, path in zip(spec.disk_names, spec.disks, strict=True)]
    if spec.image.root is not None:
        disks = [_disk("root", spec.image.root, readonly=True), *disks]
    if disks:
        config["disks"] = disks
    if spec.nics:
        # One pair of queues: with more, the tap would have to be made for them.
        config["net"] = [
            {"id": f"nic{index}", "tap": nic.tap, "mac": nic.mac, "num_queues": 2}
            for index, nic in enumerate(spec.nics)
        ]
    if landlock_version() >= _LANDLOCK:
        # All that is named above is allowed; the working directory is for snapshots.
        rule = {"path": _absolute(directory), "access": "rw"}
        config |= {"landlock_enable": True, "landlock_rules": [rule]}
    return config


def _memory(spec: MachineSpec) -> dict[str, Any]:
    zone: dict[str, Any] = {"id": "memory", "size": spec.memory << 20, "prefault": _prefault(spec)}
    if spec.memory_file:
        return zone | {"file": _absolute(spec.memory_file), "shared": True}
    if spec.saved and spec.saved.memory:
        # A private mapping: what the clone writes is its own, and the file stays as it was.
        return zone | {"file": _absolute(spec.saved.memory), "shared": False}
    if spec.hugepages:
        return zone | {"hugepages": True, "hugepage_size": _HUGE_PAGE, "shared": True}
    # Shared with nobody; but only of shared memory is the unused part left out when it is saved.
    return zone | {"shared": True}


def _prefault(spec: MachineSpec) -> bool:
    """Allocate all memory at once: a huge page that is missing later would be the VMM's end."""
    return spec.prefault or spec.hugepages


def _disk(name: str, path: Path, *, readonly: bool = False) -> dict[str, Any]:
    return {
        "id": name, "serial": name, "path": _absolute(path), "readonly": readonly,
        "image_type": "Raw",
    }  # fmt: skip


def _kernel_arguments(spec: MachineSpec) -> str:
    return " ".join([_KERNEL, *spec.image_parameters()])


def _absolute(path: Path) -> str:
    """A path as the process can use it, which has another working directory."""
    return str(path.absolute())
