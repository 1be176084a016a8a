"""QEMU's command line: the machine, its devices, and the descriptors that it inherits."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from attest.vmm.base import MachineSpec
from attest.vmm.qemu import emulation
from attest.vmm.qemu import nested as nested_machines
from attest.vmm.qemu.binary import QemuBinary
from attest.vmm.qemu.tsc import tsc_khz

__all__ = ["AGENT_PORT_NAME", "Inherited", "command_line", "cpu_model", "kernel_arguments"]

AGENT_PORT_NAME: Final = "org.attest.agent"
"""Name of the virtio-serial port on which the guest's agent listens."""

# What the agent and the console need of the kernel; loglevel 6 shows warnings and what was booted,
# and leaves out the hundreds of lines that a serial port would make slow.
_KERNEL: Final = "loglevel=6 panic=-1 reboot=t net.ifnames=0 no_timer_check random.trust_cpu=on"


class Inherited(NamedTuple):
    """The descriptors that QEMU inherits, and the guest's number.

    Attributes:
        qmp: The descriptor of its QMP socket.
        output: The descriptor to which the console goes.
        keyboard: The descriptor from which it reads what is typed.
        agent: The descriptor of the agent's socket, where that is on a serial port.
        memory: The descriptor of memory that is shared with the driver.
        cid: The guest's number on the host's vsock, where the agent is there.
    """

    qmp: int
    output: int
    keyboard: int
    agent: int | None
    memory: int | None
    cid: int

    @property
    def descriptors(self) -> list[int]:
        """All of the descriptors."""
        optional = [each for each in (self.agent, self.memory) if each is not None]
        return [self.qmp, self.output, self.keyboard, *optional]


def command_line(binary: QemuBinary, spec: MachineSpec, ends: Inherited) -> list[str]:
    """QEMU's command line for a machine that inherits these descriptors."""
    bus = "device" if spec.machine == "microvm" else "pci"
    image = spec.image
    arguments = [
        # Named threads are how `attest.vmm.dial` knows the guest's processors.
        str(binary.path), "-name", f"{spec.name},debug-threads=on",
        "-no-user-config", "-nodefaults", "-display", "none",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *_machine(binary, spec), *_memory(binary, spec, ends),
        "-smp", str(spec.vcpus), *_boot(spec),
        "-chardev", f"socket,id=qmp,fd={ends.qmp}", "-mon", "chardev=qmp,mode=control",
        *_console(binary, ends),
        *_agent(ends, bus),
        "-device", f"virtio-rng-{bus}",
    ]  # fmt: skip
    if image.root is not None:
        arguments += _drive(bus, "root", image.root, "format=raw,readonly=on")
    for name, disk in zip(spec.disk_names, spec.disks, strict=True):
        # Without flushes to the host's disk: what the guest flushes is in the host's page cache,
        # where the end of QEMU leaves it.
        arguments += _drive(bus, name, disk, "format=qcow2,cache=unsafe")
    for index, nic in enumerate(spec.nics):
        rom = "" if spec.machine == "microvm" else ",romfile="
        # A clone must not announce the address of its original; and QEMU (seen in 7.2 and 10.0)
        # crashes at the reset of a loaded card that could, but was told to do so no times.
        card = f"virtio-net-{bus},netdev=net{index},id=nic{index},mac={nic.mac},guest_announce=off"
        arguments += ["-netdev", f"tap,id=net{index},ifname={nic.tap},script=no,downscript=no",
                      "-device", card + rom]  # fmt: skip
    if spec.graphics:
        arguments += ["-device", "VGA"]
    if not spec.allow_reboot:
        arguments.append("-no-reboot")
    return arguments


def _console(binary: QemuBinary, ends: Inherited) -> list[str]:
    if binary.has_console_pipes:
        chardev = [
            "-add-fd", f"fd={ends.output},set=1", "-add-fd", f"fd={ends.keyboard},set=2",
            "-chardev", "file,id=console,path=/dev/fdset/1,input-path=/dev/fdset/2,append=on",
        ]  # fmt: skip
    else:
        chardev = ["-chardev", f"socket,id=console,fd={ends.output}"]
    return [*chardev, "-serial", "chardev:console"]


def _agent(ends: Inherited, bus: str) -> list[str]:
    if ends.agent is None:
        return ["-device", f"vhost-vsock-{bus},guest-cid={ends.cid}"]
    return [
        "-device", f"virtio-serial-{bus}", "-chardev", f"socket,id=agent,fd={ends.agent}",
        "-device", f"virtserialport,chardev=agent,name={AGENT_PORT_NAME}",
    ]  # fmt: skip


def cpu_model(binary: QemuBinary, accelerator: str, *, nested: bool) -> str:
    """The processor of a machine, as ``-cpu`` takes it."""
    model = nested_machines.cpu_model(accelerator, nested=nested)
    if accelerator == "tcg":
        model += emulation.processor_features(binary.version)
    return model


def _machine(binary: QemuBinary, spec: MachineSpec) -> list[str]:
    # With KVM a microvm has no clock chip by itself, and Linux would look for one for long. Its
    # timer chip, which Linux does not use there, would wake QEMU 36 times a second for nothing.
    machine = {
        "microvm": "microvm,rtc=on,pit=off",
        "q35": "q35,sata=off,usb=off,vmport=off",
    }[spec.machine]
    if spec.machine == "q35" and not spec.graphics:
        machine += ",smm=off"  # with it, QEMU draws text black on black
    cpu = cpu_model(binary, spec.accelerator, nested=spec.nested)
    accelerator: str = spec.accelerator
    if spec.nested and accelerator == "tcg":
        accelerator += f",tb-size={nested_machines.TRANSLATIONS}"
    return ["-machine", machine, "-accel", accelerator, "-cpu", cpu]


def _memory(binary: QemuBinary, spec: MachineSpec, ends: Inherited) -> list[str]:
    """Its memory, under one name whatever it is: a saved machine is loaded into it by that name."""
    backend = f"{_memory_backend(binary, spec, ends)},id=mem,size={spec.memory}M"
    # A huge page that is missing at the start is an error, and later the end of QEMU.
    if spec.prefault or spec.hugepages:
        backend += ",prealloc=on"
    return ["-m", str(spec.memory), "-object", backend, "-machine", "memory-backend=mem"]


def _memory_backend(binary: QemuBinary, spec: MachineSpec, ends: Inherited) -> str:
    if spec.hugepages:
        if spec.saved and spec.saved.memory:
            raise ValueError(f"{spec.name}: huge pages cannot map the file {spec.saved.memory}")
        return "memory-backend-memfd,hugetlb=on,hugetlbsize=2M"
    if ends.memory is not None:
        return f"memory-backend-file,mem-path=/proc/self/fd/{ends.memory},share=on"
    if spec.memory_file:
        return f"memory-backend-file,mem-path={_quoted(spec.memory_file)},share=on"
    if spec.saved and spec.saved.memory:
        # A private mapping: what the clone writes is its own, and the file stays as it was.
        read_only = ",readonly=on,rom=off" if binary.opens_read_only else ""
        return f"memory-backend-file,mem-path={_quoted(spec.saved.memory)},share=off{read_only}"
    return "memory-backend-ram"


def _drive(bus: str, name: str, file: Path, options: str) -> list[str]:
    drive = f"file={_quoted(file)},if=none,id={name},{options}"
    return ["-drive", drive, "-device", f"virtio-blk-{bus},drive={name},serial={name}"]


def _quoted(path: Path) -> str:
    """A path inside an option: commas are doubled there."""
    return str(path).replace(",", ",,")


def _boot(spec: MachineSpec) -> list[str]:
    """What it boots. A clone needs that only to reboot, and an unused kernel costs 14 MB."""
    kernel = [
        "-kernel", str(spec.image.kernel), "-initrd", str(spec.image.initrd),
        "-append", kernel_arguments(spec),
    ]  # fmt: skip
    if spec.saved is None:
        return kernel
    return ["-S", "-incoming", "defer", *(kernel if spec.allow_reboot else [])]


def kernel_arguments(spec: MachineSpec) -> str:
    """The command line of the guest's kernel."""
    # The last one is /dev/console.
    consoles = "console=tty0 console=ttyS0" if spec.graphics else "console=ttyS0"
    arguments = [
        consoles,
        _KERNEL,
        nested_machines.kernel_argument(spec.accelerator, nested=spec.nested),
    ]
    if spec.accelerator == "tcg":
        arguments.append(emulation.KERNEL_ARGUMENTS)
        if khz := tsc_khz():
            arguments.append(f"tsc=reliable tsc_early_khz={khz}")
    return " ".join([*arguments, *spec.image_parameters()])
