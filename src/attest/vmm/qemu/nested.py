"""Nested machines: machines in which KVM works.

With KVM they use the nested virtualisation of the host's. Without, QEMU emulates AMD's SVM, as it
can on every x86-64 host.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from attest.errors import HostError, ManifestError
from attest.image.model import Image

__all__ = [
    "LOADED_MODULES",
    "RAN_A_GUEST",
    "STEADY_QEMU",
    "TRANSLATIONS",
    "check_machine",
    "cpu_model",
    "host_support",
    "kernel_argument",
]

STEADY_QEMU: Final = (10, 0)
"""The first QEMU whose emulated nested machines do not freeze with more than one CPU.

Guests in them are not as steady. QEMU's ``helper_vmrun`` leaves an interrupt that it has injected
in ``exception_index``. Where another CPU makes all stand still before the guest has exited, as when
the memory for translated code is full, it is delivered again, whatever the guest's interrupt flag
says.
"""

TRANSLATIONS: Final = 2047
"""MiB for translated code in an emulated nested machine, the most that QEMU takes; by default it
has 1024, which some twenty boots of guests in it fill. The fuller, the more often all of its CPUs
are made to stand still, see `STEADY_QEMU`. The host gives what is used only."""

RAN_A_GUEST: Final = "vCPU set in guest-mode inconsistent"
"""What QEMU says of an emulated machine whose processor ran a guest when it was saved: it does not
load that, and does not tell beforehand (``cpu_post_load`` in its ``target/i386/machine.c``)."""

_EMULATED_CPU: Final = (
    "EPYC,+svm,+npt"
    # What an EPYC has and QEMU does not emulate, in 7.2 or 10.0: it would warn of each.
    ",-3dnowprefetch,-fxsr-opt,-misalignsse,-nrip-save,-osvw,-rdseed,-sha-ni,-topoext,-xsavec"
)
_KVM_MODULES: Final = ("kvm_amd", "kvm_intel")
_DEVICES: Final = "vhost_vsock,vhost_net,tun"
"""Modules for what hypervisors open beside ``/dev/kvm``."""

LOADED_MODULES: Final = Path("/sys/module")
"""Where the host's kernel tells of its modules."""


def cpu_model(accelerator: str, *, nested: bool) -> str:
    """The processor of a machine, as QEMU's ``-cpu`` takes it."""
    if accelerator == "kvm":
        return "host"
    # `host` would carry features of this processor that a probe has not tried under emulation.
    return _EMULATED_CPU if nested else "max"


def kernel_argument(accelerator: str, *, nested: bool, modules: Path = LOADED_MODULES) -> str:
    """What makes systemd load KVM before anything else runs, or udev leave it alone.

    Emulated processors have SVM, for which udev would load KVM in every machine.

    Args:
        accelerator: ``"kvm"`` or ``"tcg"``.
        nested: KVM is to work in the machine.
        modules: The directory in which the host's kernel tells of its modules.
    """
    if nested:
        return f"modules_load={_kvm_module(accelerator, modules)},{_DEVICES}"
    return f"modprobe.blacklist={','.join(_KVM_MODULES)}"


def host_support(accelerator: str, *, modules: Path = LOADED_MODULES) -> str:
    """How nested machines get their KVM on this host.

    Args:
        accelerator: ``"kvm"`` or ``"tcg"``.
        modules: The directory in which the host's kernel tells of its modules.

    Raises:
        HostError: They cannot; the text says what is missing.
    """
    if platform.machine() != "x86_64":
        raise HostError("nested machines need an x86-64 host")
    if accelerator == "tcg":
        return "QEMU emulates AMD SVM for them; times in them mean nothing"
    module = _kvm_module(accelerator, modules)
    if (modules / module / "parameters/nested").read_text().strip() not in ("1", "Y"):
        raise HostError(
            f"{module} is loaded without nested virtualisation",
            hint=f"as root: modprobe -r {module} && modprobe {module} nested=1; "
            "or let QEMU emulate it: --accel tcg",
        )
    return f"{module} lets them use this processor's"


def check_machine(
    name: str,
    image: Image,
    vcpus: int,
    accelerator: str,
    qemu: tuple[int, ...],
    *,
    modules: Path = LOADED_MODULES,
) -> None:
    """Require that KVM will work in a nested machine.

    Args:
        name: The machine's name.
        image: What it boots.
        vcpus: How many CPUs it has.
        accelerator: ``"kvm"`` or ``"tcg"``.
        qemu: QEMU's version.
        modules: The directory in which the host's kernel tells of its modules.

    Raises:
        HostError: It cannot on this host.
        ManifestError: It cannot with this image, or not with so many CPUs.
    """
    host_support(accelerator, modules=modules)
    if accelerator == "tcg" and vcpus > 1 and qemu < STEADY_QEMU:
        version = ".".join(map(str, qemu))
        raise ManifestError(
            f"nodes.{name}.vcpus: without KVM, QEMU {version} now and then freezes nested machines "
            "with more than one CPU",
            hint=f"`vcpus = 1`, or QEMU {STEADY_QEMU[0]} (`attest doctor` says how to get it)",
        )
    module = _kvm_module(accelerator, modules)
    if module not in image.kvm:
        has_root = image.root is not None
        raise ManifestError(
            f"nodes.{name}.nested: image {image.name} has no KVM: "
            f"{'its kernel' if has_root else 'its initrd'} ({image.kernel_version}) lacks the "
            f"module {module}",
            hint="in its recipe: "
            + ('`kernel = "linux-image-amd64"`' if has_root else f'`modules = ["{module}"]`'),
        )


def _kvm_module(accelerator: str, modules: Path) -> str:
    """The module for the processor that the machine sees."""
    if accelerator == "kvm":
        for module in _KVM_MODULES:
            if (modules / module).exists():
                return module
        raise HostError("neither kvm_amd nor kvm_intel is loaded on this host")
    return "kvm_amd"
