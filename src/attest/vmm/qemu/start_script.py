"""A start script, such as NixOS's ``run-NAME-vm``: it runs a QEMU of its own.

The script takes more options for QEMU as its arguments and passes on what it inherits. So its QMP
and its backdoor shell are ends of socket pairs, and its serial port is standard input and output,
where the script's own words appear, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from attest.errors import MachineError
from attest.vmm.base import Greet, OnEvent, OnExit, Saved, VmmExit
from attest.vmm.ends import Ends
from attest.vmm.process import WatchedProcess
from attest.vmm.qemu.monitored import Monitored

__all__ = ["UNSAVED", "ScriptSpec", "StartScript", "unplugged_names"]

UNSAVED: Final = "a machine of a start script cannot be saved"


class ScriptSpec(msgspec.Struct, frozen=True):
    """One start script to run.

    Attributes:
        name: The machine's name.
        command: What starts it: a command line for ``sh``.
        state_dir: The directory that it runs in, and has its files in.
        shared_dir: The directory that it may share with the guest.
        log: The file for its standard error.
        sockets: The directory of the VDE switch of each network, by the network's number.
        cards: Network cards to add, where the script makes none: the socket of each one's frames,
            by its MAC address.
        allow_reboot: The guest may reboot; otherwise a reboot ends QEMU.
    """

    name: str
    command: str
    state_dir: Path
    shared_dir: Path
    log: Path
    sockets: Mapping[int, Path] = msgspec.field(default_factory=dict)
    cards: Mapping[str, socket.socket] = msgspec.field(default_factory=dict)
    allow_reboot: bool = False

    def environment(self) -> dict[str, str]:
        """What the script finds in its environment."""
        return {
            **os.environ,
            "TMPDIR": str(self.state_dir),
            "SHARED_DIR": str(self.shared_dir),
            "USE_TMPDIR": "1",
            **{f"QEMU_VDE_SOCKET_{vlan}": str(path) for vlan, path in self.sockets.items()},
        }

    def arguments(self, qmp: int, shell: int) -> list[str]:
        """The script's arguments, with the descriptors of QMP and of the shell."""
        arguments = [
            "-chardev", f"socket,id=attest-qmp,fd={qmp}", "-mon", "chardev=attest-qmp,mode=control",
            "-monitor", "none",
            "-chardev", f"socket,id=shell,fd={shell}",
            # The guest's /dev/hvc0.
            "-device", "virtio-serial", "-device", "virtconsole,chardev=shell",
            "-device", "virtio-rng-pci", "-serial", "stdio",
        ]  # fmt: skip
        for index, (mac, frames) in enumerate(self.cards.items()):
            arguments += [
                "-netdev", f"dgram,id=card{index},local.type=fd,local.str={frames.fileno()}",
                "-device", f"virtio-net-pci,netdev=card{index},mac={mac}",
            ]  # fmt: skip
        if not self.allow_reboot:
            arguments.append("-no-reboot")
        if not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            arguments.append("-nographic")
        return arguments


class StartScript(Monitored):
    """A start script and its QEMU, running from construction.

    Args:
        spec: What to run.
        enter: Turns a command line into one that runs in the cluster's cell.
        on_exit: Called once when it has ended.
        on_event: Called with each QMP event's name and data.
    """

    channel: Literal["serial", "vsock"] = "serial"

    def __init__(
        self,
        spec: ScriptSpec,
        *,
        enter: Callable[[Sequence[str]], list[str]],
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> None:
        run = f'{spec.command.strip()} "$@"'
        with Ends() as ends:
            ours, qmp = ends.socket()
            super().__init__(spec.name, ours, on_exit, on_event)
            self._shell, shell = ends.socket()
            self.console, stdout, stdin = ends.console()
            self._process = WatchedProcess(
                enter(["sh", "-c", run, "sh", *spec.arguments(qmp, shell)]),
                pass_fds=[qmp, shell, *(frames.fileno() for frames in spec.cards.values())],
                stderr=spec.log,
                on_exit=self._ended,
                stdin=stdin,
                stdout=stdout,
                env=spec.environment(),
                cwd=spec.state_dir,
            )

    def dial(self, greet: Greet, timeout: float, dead: Callable[[], str]) -> None:
        """Greet the shell, see `attest.vmm.base.Vmm.dial`; nothing is tried twice."""
        greet(self._shell, timeout)
        self._await_events()

    def forward(self, host_port: int, guest_port: int) -> None:
        """Let QEMU carry connections to a port of the cell's loopback into the guest.

        Raises:
            MachineError: It cannot: the port is taken, or the machine is not on a user network.
        """
        if refusal := self.monitor(f"hostfwd_add tcp:127.0.0.1:{host_port}-:{guest_port}").strip():
            raise MachineError(self.name, f"cannot forward a port: {refusal}")

    def set_links(self, up: bool) -> None:
        """Plug or unplug its cards on the networks between machines."""
        for name in unplugged_names(self.monitor("info network")):
            self.execute("set_link", name=name, up=up)

    def save(self, directory: Path) -> Saved:
        """It cannot.

        Raises:
            MachineError: Always.
        """
        raise MachineError(self.name, UNSAVED)

    def save_running(self, directory: Path) -> Saved:
        """It cannot.

        Raises:
            MachineError: Always.
        """
        raise MachineError(self.name, UNSAVED)

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        super().kill()
        self._shell.close()

    def abandon(self) -> None:
        """End it where its start has failed, see `VmmProcess.abandon`."""
        super().abandon()
        self._shell.close()

    def _ended(self, exit: VmmExit) -> None:
        # Whatever else the script has started may hold the other end.
        with contextlib.suppress(OSError):
            self._shell.shutdown(socket.SHUT_RDWR)
        super()._ended(exit)


def unplugged_names(info: str) -> list[str]:
    """The network cards that `block` unplugs, in what the monitor's ``info network`` prints.

    Those are all but the ones on QEMU's own user network, as in NixOS's driver.
    """
    cards = re.findall(r"^(\S+): index=\d+,type=nic,.*\n \\ \S+: index=\d+,type=(\w+)", info, re.M)
    return [name for name, network in cards if network != "user"]
