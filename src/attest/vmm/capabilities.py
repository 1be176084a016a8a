"""What each VMM can do, as data: for choosing one, for errors, and for who asks."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["CLOUD_HYPERVISOR", "FIRECRACKER", "QEMU", "Capabilities"]


class Capabilities(msgspec.Struct, frozen=True):
    """What a VMM can do, each with the reason where it cannot; empty where it can.

    Attributes:
        graphics: Give the guest a display.
        q35: Be a PC with PCI and firmware.
        reset: Go on when its guest is reset; else attest starts it again.
        set_link: Unplug a network card.
        jumbo: Large packets pass a guest's network cards, if it wants that.
        keyboard: Type into the console.
        disks: Declared disks.
        hugepages: Memory of 2 MiB pages.
        prefault: All memory allocated before the start.
        nested: Run machines that can host machines.
        serial: An agent on a serial port.
        vsock: An agent on vsock.
        balloon: Give memory that the guest frees back to the host.
        jail: Lock the VMM up.
        compressed: Boot a kernel that is compressed, as boot loaders take it.
        tcg: Run without KVM.
    """

    graphics: str = ""
    q35: str = ""
    reset: str = ""
    set_link: str = ""
    jumbo: str = ""
    keyboard: str = ""
    disks: str = ""
    hugepages: str = ""
    prefault: str = ""
    nested: str = ""
    serial: str = ""
    vsock: str = ""
    balloon: str = ""
    jail: str = ""
    compressed: str = ""
    tcg: str = ""


QEMU: Final = Capabilities(
    balloon="QEMU would punch the freed pages out of the snapshot that the machine maps",
    jail="the jailer locks up Firecracker only; QEMU runs in its own sandbox",
)

FIRECRACKER: Final = Capabilities(
    tcg="Firecracker runs guests with KVM only",
    reset="a guest that reboots ends Firecracker, and attest starts it again",
    set_link=("Firecracker cannot unplug a network card: its packets are dropped instead"),
    q35="Firecracker has a machine of its own",
    prefault="Firecracker allocates memory when the guest uses it",
    nested="Firecracker does not let its guests run machines",
    graphics="Firecracker has no displays",
    serial="Firecracker has no serial port for the agent",
    compressed="Firecracker boots an uncompressed kernel: the description needs a `vmlinux`",
)

CLOUD_HYPERVISOR: Final = Capabilities(
    tcg="Cloud Hypervisor runs guests with KVM only",
    jumbo=(
        "Cloud Hypervisor makes the MTU of its tap that of its guest, which is to begin with 1500"
    ),
    set_link=(
        "Cloud Hypervisor cannot unplug a network card and plug the same one in again: the packets "
        "are dropped instead"
    ),
    q35="Cloud Hypervisor has a machine of its own",
    nested="attest runs machines that host machines with QEMU only",
    graphics="Cloud Hypervisor has no displays",
    serial="Cloud Hypervisor has no serial port for the agent",
    compressed="Cloud Hypervisor boots an uncompressed kernel: the description needs a `vmlinux`",
    balloon="Cloud Hypervisor would punch freed pages out of the snapshot that the machine maps",
    jail="the jailer locks up Firecracker only; Cloud Hypervisor runs in its own sandbox",
)
