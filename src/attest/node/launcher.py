"""What starts a node's VMM, in the cell, with the node's disks and network cards."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from attest.disk.machine_disks import Disks
from attest.guest.channel import Channel
from attest.guest.identity import Identity
from attest.net.bridge import SPARE, make_taps, set_cables, set_usual_mtu
from attest.net.cell import Cell
from attest.node.host_files import HostFiles
from attest.node.resolved import ResolvedNode
from attest.snapshot.shape import Shape
from attest.vmm.base import MachineSpec, Nic, OnEvent, OnExit, Saved, Vmm

__all__ = ["Launcher"]


class Launcher:
    """Starts the VMM of one node, and knows what goes with it on this host.

    Methods can be called from several threads at once.

    Args:
        node: The node.
        cell: Where its VMM lives.
        directory: Its own scratch directory, which is made.
        relative_to: What paths of its files and of its disks' images are relative to.
        hosts: Gives the lines for its ``/etc/hosts``.
        kept: The directory with what was kept of its cluster, whose disks it has.

    Attributes:
        name: The machine's name.
        node: The node.
        directory: Its own scratch directory.
        disks: Which file each of its disks is.
        files: The files of this host that it has from the beginning.
        is_new: It was started with disks as they are declared, and what is done in it once, before
            its test, has not been done yet.

    Raises:
        ManifestError: The image of a disk does not exist.
    """

    def __init__(
        self,
        node: ResolvedNode,
        *,
        cell: Cell,
        directory: Path,
        relative_to: Path,
        hosts: Callable[[], str],
        kept: Path | None = None,
    ) -> None:
        self.name = node.name
        self.node = node
        self.directory = directory
        directory.mkdir(parents=True)
        self.disks = Disks(
            directory,
            node.declared.disks,
            node.root_disk,
            relative_to,
            node.backend.disk_format,
            node.qemu,
            kept,
        )
        self.files = HostFiles(node.name, node.declared.files, relative_to)
        self.is_new = True
        self._cell = cell
        self._hosts = hosts
        self._shape: Shape | None = None
        self._numbers = itertools.count()
        self._spare_lock = threading.Lock()
        self._spare_taps: list[str] = []
        self._vmm: Vmm | None = None
        self._unplugged: Vmm | None = None

    def new_directory(self, purpose: str) -> Path:
        """A new directory in the machine's own."""
        path = self.directory / f"{purpose}{next(self._numbers)}"
        path.mkdir()
        return path

    def shape(self) -> Shape:
        """What decides the content of the snapshot that it has started from, or would."""
        return self._shape or self.look_at_shape()

    def look_at_shape(self) -> Shape:
        """The same as it is now, and as `shape` has it from then on.

        Whoever starts the machine with disks as declared looks: a disk's image, or a file, may have
        been changed since the last start.
        """
        self._shape = self.node.shape(self.disks.contents(), self.files.contents())
        return self._shape

    def identity(self) -> Identity:
        """Who the machine is to be, from now on."""
        return self.node.identity("" if self.node.declared.own_identity else self._hosts())

    def spec(self) -> MachineSpec:
        """The machine as it would boot."""
        return self.node.spec(self.directory)

    def start_vmm(
        self, allow_reboot: bool, saved: Saved | None, on_exit: OnExit, on_event: OnEvent
    ) -> Vmm:
        """Start its VMM, with disks that go with ``saved``, or those that it had.

        One that continues ``saved`` is paused; see `attest.machine.contracts.StartVmm`.
        """
        if saved is not None or not self.disks.written:
            self.is_new = saved is None and not self.disks.begun
        disks = self.disks.begin() if saved is None else self.disks.overlay(saved.disks)
        spec = replace(
            self.spec(), allow_reboot=allow_reboot, saved=saved, disks=disks,
            paused=saved is not None,
        )  # fmt: skip
        return self._start_own(spec, on_exit, on_event)

    def start_apart(self, allow_reboot: bool, on_exit: OnExit, on_event: OnEvent) -> Vmm:
        """Start its VMM with disks as declared, on no network until `set_cables`.

        What `attest.vmm.base.Vmm.save_running` saves of it is what clones map.
        """
        self.is_new = not self.disks.begun
        self.set_cables(False)
        spec = replace(
            self.spec(), allow_reboot=allow_reboot, disks=self.disks.begin(),
            shared_memory=not self.node.declared.hugepages,
        )  # fmt: skip
        return self._start_own(spec, on_exit, on_event)

    def _start_own(self, spec: MachineSpec, on_exit: OnExit, on_event: OnEvent) -> Vmm:
        before, self._vmm = self._vmm, self.start(spec, on_exit, on_event)
        if self._unplugged is not before:
            self._unplugged = None  # the start before was not the one that was unplugged
        return self._vmm

    def start_template(
        self,
        saved: Saved | None,
        into: Path,
        nics: tuple[Nic, ...],
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> Vmm:
        """Start a machine of its shape, off the networks, whose memory and disks are in ``into``.

        It boots, or is loaded, paused, and begins as it was ``saved``. What was saved stays as it
        is, and is not needed any more.
        """
        disks = self.disks
        spec = replace(
            self.spec(),
            nics=nics,
            saved=saved,
            memory_file=None if self.node.declared.hugepages else into / "memory",
            disks=disks.fresh(into) if saved is None else disks.copies(saved.disks, into),
            prefault=False,
            paused=saved is not None,
        )
        return self.start(spec, on_exit, on_event)

    def make_channel(self, name: str, sock: socket.socket, padding: bool) -> Channel:
        """The connection to its agent; see `attest.machine.contracts.MakeChannel`."""
        from attest.guest.agent.channel import AgentChannel  # while its VMM starts

        return AgentChannel(name, sock, padding=padding)

    @contextmanager
    def spare_nics(self) -> Iterator[tuple[Nic, ...]]:
        """Network cards that are on no network, for a machine of its shape that meets no other.

        One at a time has them.
        """
        with self._spare_lock:
            if not self._spare_taps:
                taps = [f"{each.tap}s" for each in self.node.attachments]
                make_taps(self._cell, taps)
                self._spare_taps = taps
            yield tuple(
                Nic(tap, each.mac)
                for tap, each in zip(self._spare_taps, self.node.attachments, strict=True)
            )

    @property
    def unfit(self) -> str:
        """Why it does not survive a snapshot; empty: it does."""
        return self.node.binary.unfit(self.node.image.kernel_version)

    @property
    def taps(self) -> list[str]:
        """The names of all taps that it has in the cell."""
        return [*(each.tap for each in self.node.attachments), *self._spare_taps]

    def keep_links(self, vmm: Vmm) -> None:
        """Unplug the cards of a VMM that goes on for one whose cards were: the guest was reset."""
        if self._unplugged is not None and not self.node.backend.capabilities.set_link:
            self.set_links(vmm, False)

    def set_links(self, vmm: Vmm, up: bool) -> None:
        """Plug or unplug its cards on networks, or where the VMM cannot, the other ends' cables."""
        self._unplugged = None if up else vmm
        if self.node.backend.capabilities.set_link:
            self.set_cables(up)
            return
        for index, each in enumerate(self.node.attachments):
            if each.vlan != SPARE:
                vmm.set_link(index, up)

    def set_cables(self, plugged: bool) -> None:
        """Plug or unplug the other ends' cables: the machine sees no change of its links."""
        set_cables(self._cell, self.node.attachments, plugged)

    def start(self, spec: MachineSpec, on_exit: OnExit, on_event: OnEvent) -> Vmm:
        """Start a VMM in the cell."""
        if self.node.backend.capabilities.jumbo:
            set_usual_mtu(self._cell, [nic.tap for nic in spec.nics])
        enter = self._cell.enter_as_root if spec.jail else self._cell.enter
        return self.node.backend.start(
            spec, self.node.binary, enter=enter, on_exit=on_exit, on_event=on_event
        )
