"""The interface between a cluster and the programs that run its guests.

A `MachineSpec` says what to run; a `Vmm` is one process that runs it. The driver holds both
sockets of a guest, its agent's and its console's, from before the process starts, so nothing here
waits for a socket to appear.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from attest.image.store import Image

__all__ = ["MachineSpec", "Nic", "Vmm", "VmmExit"]


@dataclass(frozen=True)
class Nic:
    """A network card: the tap interface it is plugged into, and its MAC address."""

    tap: str
    mac: str


@dataclass(frozen=True)
class MachineSpec:
    """One machine to run.

    Attributes:
        name: The machine's name.
        image: What it boots.
        memory: MiB.
        vcpus: Virtual CPUs.
        machine: QEMU machine type, ``"microvm"`` or ``"q35"``.
        accelerator: ``"kvm"`` or ``"tcg"``.
        nics: Its network cards, in order.
        directory: A scratch directory of its own.
        allow_reboot: The guest may reboot; otherwise a reboot ends the VMM.
    """

    name: str
    image: Image
    memory: int
    vcpus: int
    machine: str
    accelerator: str
    directory: Path
    nics: tuple[Nic, ...] = ()
    allow_reboot: bool = False


@dataclass(frozen=True)
class VmmExit:
    """How a VMM ended.

    Attributes:
        status: Exit code, or minus the signal's number.
        expected: Somebody asked for it: the guest powered off, or the driver killed it.
        stderr: What the VMM printed.
    """

    status: int
    expected: bool
    stderr: str

    def __str__(self) -> str:
        how = f"signal {-self.status}" if self.status < 0 else f"exit code {self.status}"
        return f"{how}: {self.stderr.strip()}" if self.stderr.strip() else how


class Vmm(Protocol):
    """A running guest. Whoever reads ``console`` and ``agent`` closes them."""

    name: str
    agent: socket.socket
    console: socket.socket

    @property
    def pid(self) -> int:
        """Process id of what was started, on the host."""

    @property
    def exit(self) -> VmmExit | None:
        """How it ended, or None while it runs."""

    def wait(self, timeout: float | None = None) -> VmmExit | None:
        """Wait for its end, at most ``timeout`` seconds; None when it still runs."""

    def set_link(self, index: int, up: bool) -> None:
        """Plug or unplug the ``index``-th network card."""

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
