"""QEMU: machine types `microvm` (virtio-mmio, no firmware) and `q35`, with KVM or emulated.

QEMU gets its three sockets (QMP, console, agent) as ends of socket pairs, so there is no path and
nothing to poll for. It lives in the cluster's cell and dies with it.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attest.errors import HostError
from attest.vmm.base import MachineSpec, VmmExit
from attest.vmm.process import WatchedProcess
from attest.vmm.tsc import tsc_khz

__all__ = ["AGENT_PORT", "Qemu", "QemuBinary", "command_line", "find_qemu"]

AGENT_PORT: Final = "org.attest.agent"
"""Name of the virtio-serial port on which the guest's agent listens."""

OLDEST: Final = (7, 2)

# What the agent and the console need of the kernel; loglevel 6 shows warnings and what was booted,
# and leaves out the hundreds of lines that a serial port would make slow.
_KERNEL: Final = (
    "console=ttyS0 loglevel=6 panic=-1 reboot=t net.ifnames=0 no_timer_check random.trust_cpu=on"
)


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


@functools.cache
def find_qemu() -> QemuBinary:
    """The QEMU for this host's architecture: ``$ATTEST_QEMU``, else the one on PATH.

    Raises:
        HostError: There is none, it does not run, or it is older than 7.2.
    """
    name = f"qemu-system-{platform.machine()}"
    wanted = os.environ.get("ATTEST_QEMU") or name
    path = shutil.which(wanted)
    if path is None:
        raise HostError(f"`{wanted}` was not found", hint="apt-get install qemu-system-x86")
    binary = QemuBinary(Path(path), _version(path))
    if binary.version < OLDEST:
        raise HostError(f"{binary} is too old: 7.2 is the oldest that works")
    return binary


def _version(path: str) -> tuple[int, int, int]:
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", result.stdout)
    if match is None:
        raise HostError(f"{path} --version failed: {(result.stderr or result.stdout).strip()}")
    major, minor, micro = (int(number) for number in match.groups())
    return major, minor, micro


def command_line(spec: MachineSpec, *, qmp: int, console: int, agent: int) -> list[str]:
    """QEMU's command line for a machine; the three numbers are inherited descriptors of sockets."""
    bus = "device" if spec.machine == "microvm" else "pci"
    image = spec.image
    arguments = [
        str(find_qemu().path), "-name", spec.name,
        "-no-user-config", "-nodefaults", "-display", "none",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *_machine(spec), "-m", str(spec.memory), "-smp", str(spec.vcpus),
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", _kernel_arguments(spec),
        "-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control",
        "-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console",
        "-device", f"virtio-serial-{bus}",
        "-chardev", f"socket,id=agent,fd={agent}",
        "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}",
        "-device", f"virtio-rng-{bus}",
    ]  # fmt: skip
    if image.root is not None:
        arguments += ["-drive", f"file={image.root},format=raw,if=none,id=root,readonly=on",
                      "-device", f"virtio-blk-{bus},drive=root,serial=root"]  # fmt: skip
    for index, nic in enumerate(spec.nics):
        rom = "" if spec.machine == "microvm" else ",romfile="
        card = f"virtio-net-{bus},netdev=net{index},id=nic{index},mac={nic.mac}{rom}"
        arguments += ["-netdev", f"tap,id=net{index},ifname={nic.tap},script=no,downscript=no",
                      "-device", card]  # fmt: skip
    if not spec.allow_reboot:
        arguments.append("-no-reboot")
    return arguments


def _machine(spec: MachineSpec) -> list[str]:
    machine = "microvm" if spec.machine == "microvm" else "q35,smm=off,sata=off,usb=off,vmport=off"
    # `host` would carry features of this processor that a probe has not tried under emulation.
    cpu = "host" if spec.accelerator == "kvm" else "max"
    return ["-machine", machine, "-accel", spec.accelerator, "-cpu", cpu]


def _kernel_arguments(spec: MachineSpec) -> str:
    arguments = [_KERNEL]
    if spec.accelerator == "tcg" and (khz := tsc_khz()):
        arguments.append(f"tsc=reliable tsc_early_khz={khz}")
    if spec.image.root is not None:
        arguments.append("attest.root=root")
    return " ".join([*arguments, *spec.image.cmdline])


class Qemu:
    """One QEMU process, running from construction.

    Whoever reads ``console`` and ``agent`` closes them.

    Args:
        spec: What to run.
        enter: Turns a command line into one that runs in the cluster's cell.
        on_exit: Called once when the process has ended.
        on_event: Called with each QMP event's name and data.
    """

    def __init__(
        self,
        spec: MachineSpec,
        *,
        enter: Callable[[Sequence[str]], list[str]],
        on_exit: Callable[[VmmExit], None],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.name = spec.name
        self._on_event = on_event
        self._qmp_lock = threading.Lock()
        self._session: Any = None
        pairs = [socket.socketpair() for _ in range(3)]
        self._qmp, self.console, self.agent = (ours for ours, _ in pairs)
        theirs = [end.fileno() for _, end in pairs]
        qmp, console, agent = theirs
        self._process = WatchedProcess(
            enter(command_line(spec, qmp=qmp, console=console, agent=agent)),
            pass_fds=theirs,
            stderr=spec.directory / "qemu.log",
            on_exit=on_exit,
        )
        for _, end in pairs:
            end.close()
        if spec.allow_reboot:
            self.execute("query-status")  # opens the session: the RESET event must not be missed

    @property
    def pid(self) -> int:
        """Process id of what was started, on the host."""
        return self._process.pid

    @property
    def exit(self) -> VmmExit | None:
        """How it ended, or None while it runs."""
        return self._process.exit

    def wait(self, timeout: float | None = None) -> VmmExit | None:
        """Wait for its end, at most ``timeout`` seconds; None when it still runs."""
        return self._process.wait(timeout)

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its result; underscores stand for hyphens.

        Raises:
            qemu.qmp.QMPError: QEMU refused it, or has ended.
        """
        from attest.vmm.qmp import Qmp  # asyncio costs 40 ms, which few tests need to spend

        with self._qmp_lock:
            if self._session is None:
                self._session = Qmp(self.name, self._qmp, self._on_event)
        return self._session.execute(command, **arguments)

    def set_link(self, index: int, up: bool) -> None:
        """Plug or unplug the ``index``-th network card."""
        self.execute("set_link", name=f"nic{index}", up=up)

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        self._process.kill()
        if self._session is not None:
            self._session.close()
        self._qmp.close()
