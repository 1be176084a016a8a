"""The interface between a cluster and the programs that run its guests.

A `MachineSpec` says what to run; a `Vmm` is one process that runs it. The driver holds both
sockets of a guest, its agent's and its console's, from before the process starts, so nothing here
waits for a socket to appear.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec

from attest.support.validation import check_choice

if TYPE_CHECKING:
    from attest.image.model import Image

__all__ = [
    "OVERLAY",
    "ConsolePipes",
    "DialError",
    "Greet",
    "MachineSpec",
    "Nic",
    "OnEvent",
    "OnExit",
    "SaveError",
    "Saved",
    "Vmm",
    "VmmExit",
    "saved_in",
]


OVERLAY: Final = "overlay"
"""What VMMs call the disk for what a machine writes to its root."""

Greet = Callable[[socket.socket, float], None]
"""Greets an agent on a connection, within so many seconds."""


class SaveError(Exception):
    """A machine could not be saved or brought back; the text is the VMM's."""


class DialError(Exception):
    """The agent in a guest was not reached.

    Attributes:
        attempts: What was tried, each with its reason for failing, how often and over which time.
    """

    def __init__(self, message: str, attempts: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.attempts = list(attempts)


class Nic(msgspec.Struct, frozen=True):
    """A network card: the tap interface it is plugged into, and its MAC address."""

    tap: str
    mac: str


class Saved(msgspec.Struct, frozen=True):
    """A machine on disk, from which others start.

    Attributes:
        memory: The guest's memory; clones map it copy-on-write. None when it is in ``state``.
        state: The state of its devices; with its memory, where that has no file of its own.
        disks: What was on its disks: files that stay as they are.
    """

    memory: Path | None
    state: Path
    disks: tuple[Path, ...] = ()


def saved_in(directory: Path, disks: tuple[Path, ...] = ()) -> Saved:
    """What a VMM has saved in a directory: ``state``, and ``memory`` where that can be mapped."""
    memory = directory / "memory"
    return Saved(memory if memory.exists() else None, directory / "state", disks)


class MachineSpec(msgspec.Struct, frozen=True):
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
        memory_file: A new file that is to be its memory, for a machine that `Vmm.save` will save.
        shared_memory: Its memory is where the driver can copy it from, so that `Vmm.save_running`
            saves what clones map.
        saved: What it continues; without, it boots. With both, the file begins with the memory that
            was saved, and what was saved stays as it is.
        disks: The files that it writes, in order, of the VMM's own format; they exist. The guest
            sees each as a virtio block device, ``/dev/disk/by-id/virtio-disk0`` and so on. For a
            machine with ``saved`` they begin as its disks.
        root_size: The last of the disks holds what it writes to its root, which has so many MiB; 0:
            none does.
        hugepages: Its memory is of reserved 2 MiB pages. It has no memory file, and what it
            continues is read, not mapped. ``memory`` is an even number then.
        prefault: All of its memory is allocated before it starts.
        paused: It is loaded from ``saved`` and waits for `Vmm.resume`.
        nested: KVM works in it; it is a ``"q35"``.
        graphics: It has a display; it is a ``"q35"``.
        channel: How the agent is reached; by default as is usual with the VMM.
        balloon: Memory that the guest frees goes back to the host.
        jail: The VMM is locked up.

    Raises:
        UsageError: There is no such machine type, accelerator or channel.
        ValueError: These do not go together.
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
    memory_file: Path | None = None
    shared_memory: bool = False
    saved: Saved | None = None
    disks: tuple[Path, ...] = ()
    root_size: int = 0
    hugepages: bool = False
    prefault: bool = False
    paused: bool = False
    nested: bool = False
    graphics: bool = False
    channel: Literal["serial", "vsock"] | None = None
    balloon: bool = False
    jail: bool = False

    def __post_init__(self) -> None:
        check_choice(self.machine, ("microvm", "q35"), f"{self.name}: machine")
        check_choice(self.accelerator, ("kvm", "tcg"), f"{self.name}: accelerator")
        if self.channel is not None:
            check_choice(self.channel, ("serial", "vsock"), f"{self.name}: channel")
        if self.hugepages and (self.memory_file or self.shared_memory):
            raise ValueError(f"{self.name}: memory of huge pages is in no file of its own")
        if self.shared_memory and (self.memory_file or self.saved):
            raise ValueError(f"{self.name}: memory that is shared begins empty, and has no path")
        if self.hugepages and self.memory % 2:
            raise ValueError(f"{self.name}: {self.memory} MiB are no whole number of 2 MiB pages")
        if self.paused and not self.saved:
            raise ValueError(f"{self.name}: only what is loaded can begin paused")

    @property
    def disk_names(self) -> list[str]:
        """What the VMM calls each of the disks."""
        names = [f"disk{index}" for index in range(len(self.disks))]
        return [*names[:-1], OVERLAY] if self.root_size else names

    def image_parameters(self, root: str = "root", overlay: str = OVERLAY) -> list[str]:
        """The kernel parameters that the image wants, and those that tell its initrd of the root.

        Args:
            root: The root's disk, by its serial number or the path of its device.
            overlay: Likewise the disk for what is written to the root, where there is one.
        """
        return self.image.parameters(root, overlay if self.root_size else "", self.root_size)


class ConsolePipes(msgspec.Struct, frozen=True):
    """The driver's ends of a console.

    They are pipes where the VMM can use them, not a socket: a serial port writes byte by byte, and
    a socket counts each as a packet, so that a few hundred unread ones stop the guest.

    Attributes:
        output: What the guest prints.
        keyboard: What is typed.
    """

    output: FileIO
    keyboard: FileIO

    def close(self) -> None:
        """Close both."""
        self.output.close()
        self.keyboard.close()


class VmmExit(msgspec.Struct, frozen=True):
    """How a VMM ended.

    Attributes:
        status: Exit code, or minus the signal's number.
        expected: Somebody asked for it: the guest powered off, or the driver killed it.
        stderr: What the VMM printed.
        metrics: What it counted, by the VMM's own names; only what is not zero.
    """

    status: int
    expected: bool
    stderr: str
    metrics: Mapping[str, int] = msgspec.field(default_factory=dict)

    def __str__(self) -> str:
        how = f"signal {-self.status}" if self.status < 0 else f"exit code {self.status}"
        return f"{how}: {self.stderr.strip()}" if self.stderr.strip() else how


OnExit = Callable[[VmmExit], None]
"""Called once, in a thread of the VMM's, when it has ended."""

OnEvent = Callable[[str, dict[str, Any]], None]
"""Called with the name and the data of each of the VMM's events, in a thread of the VMM's."""


class Vmm(Protocol):
    """A running guest. Whoever uses ``console`` closes it.

    Attributes:
        name: The machine's name.
        channel: How the agent is reached: over the one connection of a ``"serial"`` port, in which
            something of an earlier user can be left, or over ``"vsock"``, whose connections do not
            outlive that the machine is saved.
        console: The driver's ends of the console.
    """

    name: str
    channel: Literal["serial", "vsock"]
    console: ConsolePipes

    def dial(self, greet: Greet, timeout: float, dead: Callable[[], str]) -> None:
        """Connect to the guest's agent and greet it.

        Args:
            greet: Greets the agent on a connection, and raises an `attest.errors.ChannelError` when
                that does not answer. It closes the connection; over vsock, each is a new one.
            timeout: Seconds until the agent must have answered.
            dead: What is known of the guest's death, such as a kernel panic; empty: it lives.

        Raises:
            DialError: It was not reached, or the VMM has ended.
            ChannelError: The agent answered, and cannot be talked to.
        """

    @property
    def pid(self) -> int:
        """Process id of what was started, on the host."""

    @property
    def exit(self) -> VmmExit | None:
        """How it ended, or None while it runs."""

    def wait(self, timeout: float | None = None) -> VmmExit | None:
        """Wait for its end, at most ``timeout`` seconds; None when it still runs."""

    def drain(self) -> None:
        """Return when its network cards have read what had come for them before."""

    def pause(self) -> None:
        """Stop its processors; nothing happens when it is paused."""

    def resume(self) -> None:
        """Let it go on; nothing happens when it runs."""

    def save(self, directory: Path) -> Saved:
        """Stop it for good and save it so that clones map its memory, where that can be mapped.

        Args:
            directory: Where its files go; where its ``memory_file`` is.

        Raises:
            SaveError: It could not be saved.
        """

    def save_running(self, directory: Path) -> Saved:
        """Pause it and save it; it can be resumed, and has to be before it is saved again.

        Args:
            directory: Where its files go.

        Returns:
            What was saved, without the disks. Where its ``memory`` is None though it could be
            mapped, loading it into a machine with a memory file and saving that makes it so; of a
            machine with shared memory it is not None.

        Raises:
            SaveError: It could not be saved.
        """

    def forget_events(self) -> None:
        """Forget the events so far that the test may ask for: those of its being saved."""

    def fork_disks(self, fresh: Sequence[Path]) -> None:
        """Freeze the files of its disks, of a format that has overlays, and go on with such.

        The machine is paused. The frozen files belong to whoever saves it, before or after.

        Args:
            fresh: Absolute paths of the overlays, one for each disk, which are made here.

        Raises:
            ValueError: They are not as many as the disks.
        """

    def set_link(self, index: int, up: bool) -> None:
        """Plug or unplug the ``index``-th network card."""

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""

    def abandon(self) -> None:
        """End it where its start has failed, and close its console, which nobody reads yet.

        Unlike `kill`, it does not wait for who is told of the end, who may wait for the start.
        """
