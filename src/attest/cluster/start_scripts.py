"""Machines of start scripts: their places in their cluster, and what it does for them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from attest.errors import AttestError, HostError, MachineError
from attest.events import EventLog
from attest.guest.channel import Channel
from attest.machine.contracts import InstanceContext, MachineHost
from attest.machine.lifecycle import Lifecycle
from attest.machine.machine import Machine, Snapshot
from attest.manifest import NO_LIMIT, Manifest, Node, vlans_in
from attest.net import helper
from attest.net.bridge import Attachment
from attest.net.cell import Cell
from attest.net.switches import Switches
from attest.net.vlan import VLan
from attest.provision.sources import BootSource
from attest.vmm.base import OnEvent, OnExit, Saved, Vmm

if TYPE_CHECKING:
    from attest.vmm.qemu.start_script import StartScript

__all__ = ["Report", "StartScripts", "ScriptNode", "machine_name"]


class Report(msgspec.Struct, frozen=True):
    """Where the machines of start scripts report what happens.

    Attributes:
        events: Takes everything that happens.
        out_dir: Where logs and artefacts go.
        on_fatal: Called when the run cannot go on.
        require_open: Raises when the cluster is not open any more.
    """

    events: EventLog
    out_dir: Path
    on_fatal: Callable[[AttestError], None]
    require_open: Callable[[], None]

    def console_log(self, machine: str) -> Path:
        """The file to which a machine's console is written."""
        return self.out_dir / f"console-{machine}.log"


class ScriptNode(msgspec.Struct, eq=False):
    """What is decided for a machine of a start script: its command, networks and directories.

    Attributes:
        name: The machine's name.
        number: Its number in the cluster.
        command: What starts it, for ``sh``.
        vlans: The networks that it is on, in order.
        makes_cards: The script itself makes network cards for them.
        sockets: The directory of each network's VDE switch.
        cell: Where it lives.
        state_dir: The directory that it runs in.
        shared_dir: The directory that it may share with its guest.
        scratch: A directory for what is nobody else's business.
    """

    name: str
    number: int
    command: str
    vlans: Sequence[int]
    makes_cards: bool
    sockets: Mapping[int, Path]
    cell: Cell
    state_dir: Path
    shared_dir: Path
    scratch: Path
    _vmm: StartScript | None = None
    _joined: ExitStack = msgspec.field(default_factory=ExitStack)

    @property
    def attachments(self) -> list[Attachment]:
        """Its place on each network that it is on, in the order of ``vlans``."""
        return [Attachment(vlan, self.number) for vlan in self.vlans]

    def start_vmm(
        self,
        allow_reboot: bool,
        saved: Saved | None,
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> Vmm:
        """Run the script; see `attest.machine.contracts.StartVmm`."""
        from attest.vmm.qemu.start_script import ScriptSpec, StartScript

        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._joined.close()
        cards = {} if self.makes_cards else self._cards()
        spec = ScriptSpec(
            name=self.name, command=self.command, state_dir=self.state_dir,
            shared_dir=self.shared_dir, log=self.scratch / f"{self.name}.log",
            sockets=self.sockets, cards=cards,
            allow_reboot=allow_reboot,
        )  # fmt: skip
        self._vmm = StartScript(spec, enter=self.cell.enter, on_exit=on_exit, on_event=on_event)
        return self._vmm

    def make_channel(self, name: str, sock: socket.socket, padding: bool) -> Channel:
        """Make the connection to the backdoor shell in its guest."""
        from attest.guest.backdoor.channel import ShellChannel, ShellHost

        return ShellChannel(name, sock, ShellHost(self.shared_dir, self._forward, self._press))

    def set_links(self, vmm: Vmm, up: bool) -> None:
        """Plug its network cards when ``up``, else unplug them; that of the user network stays."""
        self._running().set_links(up)

    def close(self) -> None:
        """Let go of the networks, and wait for what ran beside the machine."""
        self._joined.close()

    def _cards(self) -> dict[str, socket.socket]:
        """Network cards on its networks: each one's MAC address, as in NixOS, and its frames."""
        from attest.net.vde import join

        cards = {}
        for vlan in self.vlans:
            own = self.scratch / f"{self.name}.vlan{vlan}"
            own.unlink(missing_ok=True)
            connection, frames = join(self.sockets[vlan] / "ctl", own)
            self._joined.enter_context(connection)
            cards[Attachment(vlan, self.number).mac] = self._joined.enter_context(frames)
        return cards

    def _forward(self, host_port: int, guest_port: int) -> None:
        """Carry connections to a port of this host's loopback into the guest.

        QEMU listens in the cell, whose network is another one than the driver's.
        """
        vmm = self._running()
        try:
            listener = socket.create_server(("127.0.0.1", host_port))
        except OSError as error:
            message = f"cannot forward port {host_port} of 127.0.0.1: {error.strerror}"
            raise HostError(message) from error
        with listener:
            port = listener.getsockname()[1]
            vmm.forward(port, guest_port)
            relay = subprocess.Popen(
                self.cell.enter([*helper("relay"), str(listener.fileno()), str(port)]),
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._joined.callback(_end, relay)

    def _press(self, keys: str) -> None:
        self._running().press(keys)

    def _running(self) -> StartScript:
        if self._vmm is None:
            raise MachineError(self.name, "was not started")
        return self._vmm


class StartScripts:
    """The machines of start scripts of a cluster, and what they share.

    Args:
        cell: Where they live.
        scratch: The cluster's directory for temporary files.
        manifest: The cluster's.
        states: Where their directories go when they are to outlive the cluster.
        report: Where they report.

    Attributes:
        nodes: What each of them is, by name.
        lifecycles: Their instances, by name.
        vlans: All networks of the cluster.
        shared_dir: A directory that all machines may share.
    """

    def __init__(
        self,
        cell: Cell,
        scratch: Path,
        manifest: Manifest,
        states: Path | None,
        report: Report,
    ) -> None:
        self.nodes: dict[str, ScriptNode] = {}
        self.lifecycles: dict[str, Lifecycle] = {}
        self.vlans = [VLan(vlan, scratch / f"vde{vlan}.ctl") for vlan in manifest.all_vlans()]
        self.shared_dir = scratch / "shared-xchg"
        self.shared_dir.mkdir(mode=0o700)
        self._cell = cell
        self._scratch = scratch
        self._states = states
        self._report = report
        self._files_dir = manifest.script_dir()
        self._bridged = {vlan for node in manifest.image_nodes().values() for vlan in node.vlans}
        self._switches = Switches(cell)

    def add(self, name: str, number: int, node: Node) -> Machine:
        """Make the machine of a node.

        Raises:
            HostError: A network's switch does not start.
        """
        text = Path(node.start_command).read_text(encoding="utf-8", errors="replace")
        return self._add(
            name, number, shlex.quote(node.start_command), node, makes_cards=bool(vlans_in(text))
        )

    def create(self, name: str, number: int, command: str, keep_state: bool) -> Machine:
        """Make a machine of a command line.

        Args:
            name: The machine's name; one that is off gives up its place.
            number: Its number.
            command: What starts it, for ``sh``.
            keep_state: It goes on with the files of the last machine of that name.

        Raises:
            HostError: A network's switch does not start.
        """
        if name in self.nodes:
            self.lifecycles[name].close()
            self.nodes[name].close()
        if not keep_state and self._states is None:
            shutil.rmtree(self._state_dir(name), ignore_errors=True)
        node = Node(vlans=vlans_in(command), ready_unit="", start_timeout=NO_LIMIT)
        return self._add(name, number, command, node, makes_cards=True)

    def refuse_saving(self, machine: Machine) -> None:
        """Refuse to save a machine that is one of these, and runs.

        Raises:
            MachineError: It is.
        """
        if machine.name in self.nodes and machine.booted:
            raise _unsaveable(machine.name)

    def close(self) -> None:
        """Wait until all is gone that ran beside the machines, after their cell."""
        with ExitStack() as ends:  # each, whatever becomes of the others
            ends.callback(self._switches.close)
            for each in self.nodes.values():
                ends.callback(each.close)

    def _add(
        self, name: str, number: int, command: str, node: Node, *, makes_cards: bool
    ) -> Machine:
        for vlan in self.vlans:
            self._switches.start(vlan.nr, vlan.socket_dir, bridged=vlan.nr in self._bridged)
        script = self.nodes[name] = ScriptNode(
            name=name, number=number, command=command, vlans=node.vlans, makes_cards=makes_cards,
            sockets={vlan.nr: vlan.socket_dir for vlan in self.vlans}, cell=self._cell,
            state_dir=self._state_dir(name), shared_dir=self.shared_dir, scratch=self._scratch,
        )  # fmt: skip

        context = InstanceContext(
            events=self._report.events,
            vmm=f"start script {command}",
            start_vmm=script.start_vmm,
            make_channel=script.make_channel,
            identity=None,
            ready_unit=node.ready_unit,
            start_timeout=node.start_timeout,
            console_log=self._report.console_log(name),
            on_fatal=self._report.on_fatal,
            require_open=self._report.require_open,
        )
        host = MachineHost(
            self._report.out_dir, script.state_dir, self.shared_dir, script.set_links,
            self._files_dir,
        )  # fmt: skip
        lifecycle = self.lifecycles[name] = Lifecycle(name, context, BootSource())
        return Machine(lifecycle, host, self._report.events, _refuse)

    def _state_dir(self, name: str) -> Path:
        return (self._states or self._scratch) / f"vm-state-{name}"


def _refuse(machine: Machine, _name: str) -> Snapshot:
    raise _unsaveable(machine.name)


def _unsaveable(name: str) -> MachineError:
    from attest.vmm.qemu.start_script import UNSAVED

    return MachineError(name, UNSAVED, hint="one of an image can")


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def machine_name(command: str) -> str:
    """The machine's name, as NixOS's start scripts have it in theirs; else ``machine``."""
    match = re.search(r"run-(.+)-vm$", command)
    return match[1] if match else "machine"
