"""QEMU: machine types `microvm` (virtio-mmio, no firmware) and `q35`, with KVM or emulated.

QEMU gets its three sockets (QMP, console, agent) as ends of socket pairs, so there is no path and
nothing to poll for. It lives in the cluster's cell and dies with it.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from attest.errors import HostError, reason_of
from attest.vmm.base import (
    ConsolePipes,
    Greet,
    MachineSpec,
    Saved,
    SaveError,
    VmmExit,
    identity,
)
from attest.vmm.dial import dial
from attest.vmm.ends import Ends
from attest.vmm.process import WatchedProcess
from attest.vmm.qemu import emulation
from attest.vmm.qemu import nested as nested_machines
from attest.vmm.qemu.monitored import REPLY_LIMIT, Monitored
from attest.vmm.qemu.tsc import tsc_khz
from attest.vmm.vsock import HostVsock, check_vhost_vsock

__all__ = ["AGENT_PORT", "Qemu", "QemuBinary", "command_line", "cpu_model", "find_qemu"]

AGENT_PORT: Final = "org.attest.agent"
"""Name of the virtio-serial port on which the guest's agent listens."""

OLDEST: Final = (7, 2)

_FIRST_CID: Final = 3
_CIDS: Final = 2**31
"""Guests' numbers on the host's vsock: so many that two of them hardly ever meet."""

_PIPES: Final = (8, 1)
"""The first QEMU whose console can have its input in another descriptor than its output."""

_REAPED: Final = 1.0
"""Seconds: the sockets of a QEMU that ends close a moment before its process is gone."""

_READ_ONLY: Final = (8, 2)
"""The first QEMU that maps a file which it may not write; older ones open it for writing."""

# What the agent and the console need of the kernel; loglevel 6 shows warnings and what was booted,
# and leaves out the hundreds of lines that a serial port would make slow.
_KERNEL: Final = "loglevel=6 panic=-1 reboot=t net.ifnames=0 no_timer_check random.trust_cpu=on"


@dataclass(frozen=True)
class QemuBinary:
    """A QEMU that was found.

    Attributes:
        path: The executable.
        version: Major, minor and micro number.
    """

    path: Path
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"QEMU {'.'.join(map(str, self.version))} ({self.path})"

    @property
    def identity(self) -> str:
        """Text that is another one where this is a program that makes other snapshots."""
        return identity(self, self.path)

    @property
    def opens_read_only(self) -> bool:
        """It maps a saved memory that it may not write."""
        return self.version >= _READ_ONLY

    def doubt(self, kernel: str) -> str:
        """Nothing: each version that `find_qemu` takes has been tested."""
        return ""

    def unfit(self, kernel: str) -> str:
        """Nothing: it restores every kernel."""
        return ""


@functools.cache
def find_qemu(program: str = "") -> QemuBinary:
    """A QEMU for this host's architecture.

    Args:
        program: Its path or name; default: ``$ATTEST_QEMU``, else the one on PATH.

    Raises:
        HostError: There is none, it does not run, or it is older than 7.2.
    """
    name = f"qemu-system-{platform.machine()}"
    wanted = program or os.environ.get("ATTEST_QEMU") or name
    path = shutil.which(wanted)
    if path is None:
        raise HostError(f"`{wanted}` was not found", hint="apt-get install qemu-system-x86")
    binary = QemuBinary(Path(path).absolute(), _version(path))
    if binary.version < OLDEST:
        raise HostError(f"{binary} is too old: 7.2 is the oldest that works")
    return binary


def _version(path: str) -> tuple[int, int, int]:
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:  # such as that of a file for another architecture
        raise HostError(f"{path} --version failed: {error.strerror}") from None
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", result.stdout)
    if match is None:
        raise HostError(f"{path} --version failed: {(result.stderr or result.stdout).strip()}")
    major, minor, micro = (int(number) for number in match.groups())
    return major, minor, micro


def command_line(binary: QemuBinary, spec: MachineSpec, ends: _Inherited) -> list[str]:
    """QEMU's command line for a machine that inherits these descriptors."""
    bus = "device" if spec.machine == "microvm" else "pci"
    image = spec.image
    arguments = [
        # Named threads are how `attest.vmm.dial` knows the guest's processors.
        str(binary.path), "-name", f"{spec.name},debug-threads=on",
        "-no-user-config", "-nodefaults", "-display", "none",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *_machine(binary, spec), *_memory(binary, spec), "-smp", str(spec.vcpus), *_boot(spec),
        "-chardev", f"socket,id=qmp,fd={ends.qmp}", "-mon", "chardev=qmp,mode=control",
        *_console(binary, ends),
        *_agent(ends, bus),
        "-device", f"virtio-rng-{bus}",
    ]  # fmt: skip
    if image.root is not None:
        arguments += _drive(bus, "root", image.root, "format=raw,readonly=on")
    for index, disk in enumerate(spec.disks):
        # Without flushes to the host's disk: what the guest flushes is in the host's page cache,
        # where the end of QEMU leaves it.
        arguments += _drive(bus, f"disk{index}", disk, "format=qcow2,cache=unsafe")
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


def _agent(ends: _Inherited, bus: str) -> list[str]:
    if ends.agent is None:
        return ["-device", f"vhost-vsock-{bus},guest-cid={ends.cid}"]
    return [
        "-device", f"virtio-serial-{bus}", "-chardev", f"socket,id=agent,fd={ends.agent}",
        "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}",
    ]  # fmt: skip


def cpu_model(binary: QemuBinary, accelerator: str, *, nested: bool) -> str:
    """The processor of a machine, as ``-cpu`` takes it."""
    model = nested_machines.cpu_model(accelerator, nested=nested)
    if accelerator == "tcg":
        model += emulation.processor_features(binary.version)
    return model


def _machine(binary: QemuBinary, spec: MachineSpec) -> list[str]:
    # With KVM a microvm has no clock chip by itself, and Linux would look for one for long.
    machine = {"microvm": "microvm,rtc=on", "q35": "q35,sata=off,usb=off,vmport=off"}[spec.machine]
    if spec.machine == "q35" and not spec.graphics:
        machine += ",smm=off"  # with it, QEMU draws text black on black
    cpu = cpu_model(binary, spec.accelerator, nested=spec.nested)
    return ["-machine", machine, "-accel", spec.accelerator, "-cpu", cpu]


def _memory(binary: QemuBinary, spec: MachineSpec) -> list[str]:
    """Its memory, under one name whatever it is: a saved machine is loaded into it by that name."""
    backend = f"{_memory_backend(binary, spec)},id=mem,size={spec.memory}M"
    # A huge page that is missing at the start is an error, and later the end of QEMU.
    if spec.prefault or spec.hugepages:
        backend += ",prealloc=on"
    return ["-m", str(spec.memory), "-object", backend, "-machine", "memory-backend=mem"]


def _memory_backend(binary: QemuBinary, spec: MachineSpec) -> str:
    if spec.hugepages:
        if spec.saved and spec.saved.memory:
            raise ValueError(f"{spec.name}: huge pages cannot map the file {spec.saved.memory}")
        return "memory-backend-memfd,hugetlb=on,hugetlbsize=2M"
    if spec.saved and spec.saved.memory:
        # A private mapping: what the clone writes is its own, and the file stays as it was.
        read_only = ",readonly=on,rom=off" if binary.opens_read_only else ""
        return f"memory-backend-file,mem-path={_quoted(spec.saved.memory)},share=off{read_only}"
    if spec.memory_file:
        return f"memory-backend-file,mem-path={_quoted(spec.memory_file)},share=on"
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
        "-append", _kernel_arguments(spec),
    ]  # fmt: skip
    if spec.saved is None:
        return kernel
    return ["-S", "-incoming", "defer", *(kernel if spec.allow_reboot else [])]


def _kernel_arguments(spec: MachineSpec) -> str:
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
    return " ".join([*arguments, *spec.image.parameters(root="root")])


class _Inherited(NamedTuple):
    """What QEMU's ends are.

    Attributes:
        qmp: The descriptor of its QMP socket.
        output: The descriptor to which the console goes.
        keyboard: The descriptor from which it reads what is typed.
        agent: The descriptor of the agent's socket, where that is on a serial port.
        cid: The guest's number on the host's vsock, where the agent is there.
    """

    qmp: int
    output: int
    keyboard: int
    agent: int | None
    cid: int

    @property
    def descriptors(self) -> list[int]:
        """Those that it inherits."""
        agent = [] if self.agent is None else [self.agent]
        return [self.qmp, self.output, self.keyboard, *agent]


def _console_ends(ends: Ends, binary: QemuBinary) -> tuple[ConsolePipes, int, int]:
    """The driver's ends of the console, and those for QEMU's output and its keyboard."""
    if binary.version >= _PIPES:
        output, to_output = ends.from_process()
        keyboard, from_keyboard = ends.to_process()
        return ConsolePipes(output, keyboard), to_output, from_keyboard
    ours, theirs = socket.socketpair()
    output, to_output = ends.ours(FileIO(ours.detach())), ends.theirs(theirs.detach())
    keyboard = ends.ours(FileIO(os.dup(output.fileno()), "w"))
    return ConsolePipes(output, keyboard), to_output, ends.theirs(os.dup(to_output))


def _console(binary: QemuBinary, ends: _Inherited) -> list[str]:
    if binary.version < _PIPES:
        chardev = ["-chardev", f"socket,id=console,fd={ends.output}"]
    else:
        chardev = [
            "-add-fd", f"fd={ends.output},set=1", "-add-fd", f"fd={ends.keyboard},set=2",
            "-chardev", "file,id=console,path=/dev/fdset/1,input-path=/dev/fdset/2,append=on",
        ]  # fmt: skip
    return [*chardev, "-serial", "chardev:console"]


class Qemu(Monitored):
    """One QEMU process, running from construction.

    Whoever reads ``console`` closes it.

    Raises:
        HostError: It is to use vsock, which this host does not let it.
        SaveError: It could not load what was saved.

    Args:
        spec: What to run.
        binary: The program.
        enter: Turns a command line into one that runs in the cluster's cell.
        on_exit: Called once when the process has ended.
        on_event: Called with each QMP event's name and data.
        reply_limit: Seconds that an answer over QMP may take.
    """

    def __init__(
        self,
        spec: MachineSpec,
        binary: QemuBinary,
        *,
        enter: Callable[[Sequence[str]], list[str]],
        on_exit: Callable[[VmmExit], None],
        on_event: Callable[[str, dict[str, Any]], None],
        reply_limit: float = REPLY_LIMIT,
    ) -> None:
        self.name = spec.name
        self.channel = spec.channel or "serial"
        self._spec = spec
        self._binary = binary
        self._agent: socket.socket | None = None
        self._cid = _FIRST_CID + secrets.randbelow(_CIDS)
        if self.channel == "vsock":
            check_vhost_vsock()
        with Ends() as ends:
            ours, qmp = ends.socket()
            super().__init__(
                spec.name, ours, on_exit, on_event,
                keyboard=spec.machine == "q35", reply_limit=reply_limit,
            )  # fmt: skip
            agent = None
            if self.channel == "serial":
                self._agent, agent = ends.socket()
            self.console, output, keyboard = _console_ends(ends, binary)
            inherited = _Inherited(qmp, output, keyboard, agent, self._cid)
            self._process = WatchedProcess(
                enter(command_line(binary, spec, inherited)),
                pass_fds=inherited.descriptors,
                stderr=spec.directory / "qemu.log",
                cwd=spec.directory,
                on_exit=self._ended,
            )
        try:
            if spec.saved is not None:
                self._load(spec.saved)
            elif spec.allow_reboot:
                self._await_events()
        except BaseException:
            self.abandon()
            raise

    def _load(self, saved: Saved) -> None:
        from attest.vmm.qemu import migration
        from attest.vmm.qemu.qmp import QMPError

        version, memory = self._binary.version, saved.memory is None
        try:
            migration.load(self._connect(), version, saved.state, memory=memory)
            if not self._spec.paused:
                self.resume()
        except (SaveError, QMPError) as error:
            exit = self.wait(_REAPED)
            text = reason_of(error)
            raise SaveError(f"{text}: QEMU ended with {exit}" if exit else text) from error

    def dial(self, greet: Greet, timeout: float, dead: Callable[[], str]) -> None:
        """Greet the agent, see `attest.vmm.base.Vmm.dial`; over serial nothing is tried twice."""
        if self._agent is not None:
            greet(self._agent, timeout)
        else:
            dial(HostVsock(self._cid), greet, timeout, vmm=self._process, vcpus="CPU ", dead=dead)

    def save(self, directory: Path) -> Saved:
        """Stop it for good and save it so that clones map its memory, where that can be mapped.

        Raises:
            SaveError: It could not be saved.
            ValueError: It has no memory file of its own in the directory.
        """
        if self._spec.hugepages:
            return self._save(directory, None)
        if self._spec.memory_file is None:
            raise ValueError(f"{self.name} has no memory file")
        return self._save(directory, self._spec.memory_file)

    def save_running(self, directory: Path) -> Saved:
        """Pause it and write its memory and its devices' state into one file.

        Raises:
            SaveError: It could not be saved.
        """
        return self._save(directory, None)

    def _save(self, directory: Path, memory: Path | None) -> Saved:
        from attest.vmm.qemu import migration

        saved = Saved(memory, directory / "state")
        migration.save(self._connect(), self._binary.version, saved.state, memory=memory is None)
        return saved

    def fork_disks(self, fresh: Sequence[Path]) -> None:
        """Freeze the files of its disks, and go on with new overlays of them.

        The machine is paused. The frozen files belong to whoever saves it, before or after.

        Args:
            fresh: Absolute paths of the overlays, one for each disk, which are made here.

        Raises:
            ValueError: They are not as many as the disks.
        """
        disks = [f"disk{index}" for index in range(len(self._spec.disks))]
        overlays = [
            {"device": disk, "snapshot-file": str(path), "format": "qcow2"}
            for disk, path in zip(disks, fresh, strict=True)
        ]
        actions = [{"type": "blockdev-snapshot-sync", "data": each} for each in overlays]
        self.execute("transaction", actions=actions)  # all of them or none

    def set_link(self, index: int, up: bool) -> None:
        """Plug or unplug the ``index``-th network card."""
        self.execute("set_link", name=f"nic{index}", up=up)

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        super().kill()
        self._close_agent()

    def abandon(self) -> None:
        """End it where its start has failed, see `VmmProcess.abandon`."""
        super().abandon()
        self._close_agent()

    def _close_agent(self) -> None:
        if self._agent is not None:
            self._agent.close()
