"""QEMU: machine types `microvm` (virtio-mmio, no firmware) and `q35`, with KVM or emulated.

QEMU gets its three sockets (QMP, console, agent) as ends of socket pairs, so there is no path and
nothing to poll for. It lives in the cluster's cell and dies with it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from attest.errors import reason_of
from attest.support.sparse_copy import copy_sparse
from attest.vmm.base import (
    ConsolePipes,
    Greet,
    MachineSpec,
    OnEvent,
    OnExit,
    Saved,
    SaveError,
    VmmExit,
)
from attest.vmm.dial import dial
from attest.vmm.ends import Ends
from attest.vmm.process import WatchedProcess
from attest.vmm.qemu.binary import QemuBinary
from attest.vmm.qemu.command_line import Inherited, command_line
from attest.vmm.qemu.monitored import REPLY_LIMIT, Monitored
from attest.vmm.shared_memory import SharedMemory
from attest.vmm.vsock import HostVsock, check_vhost_vsock

__all__ = ["Qemu"]

_FIRST_CID: Final = 3
_CIDS: Final = 2**31
"""Guests' numbers on the host's vsock: so many that two of them hardly ever meet."""

_REAPED: Final = 1.0
"""Seconds: the sockets of a QEMU that ends close a moment before its process is gone."""


class Qemu(Monitored):
    """One QEMU process, running from construction.

    Whoever reads ``console`` closes it.

    Raises:
        HostError: It is to use vsock, which this host does not let it; or a memory that was saved
            cannot be copied.
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
        on_exit: OnExit,
        on_event: OnEvent,
        reply_limit: float = REPLY_LIMIT,
    ) -> None:
        self.name = spec.name
        self.channel = spec.channel or "serial"
        self._spec = spec
        self._binary = binary
        self._agent: socket.socket | None = None
        self._cid = _FIRST_CID + int.from_bytes(os.urandom(4), "big") % _CIDS
        if self.channel == "vsock":
            check_vhost_vsock()
        if spec.memory_file and spec.saved and spec.saved.memory:
            copy_sparse(spec.memory_file, spec.saved.memory)
        self._memory = SharedMemory(spec.memory) if spec.shared_memory else None
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
            memory = self._memory.descriptor if self._memory else None
            inherited = Inherited(qmp, output, keyboard, agent, memory, self._cid)
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
            elif spec.allow_reboot or spec.disks:
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

        Memory that is shared goes into a file of its own.

        Raises:
            HostError: Its memory could not be copied.
            SaveError: It could not be saved.
        """
        if self._memory is None:
            return self._save(directory, None)
        saved = self._save(directory, directory / "memory")
        self._memory.copy(directory / "memory")
        return saved

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
        overlays = [
            {"device": disk, "snapshot-file": str(path), "format": "qcow2"}
            for disk, path in zip(self._spec.disk_names, fresh, strict=True)
        ]
        actions = [{"type": "blockdev-snapshot-sync", "data": each} for each in overlays]
        self.execute("transaction", actions=actions)  # all of them or none

    def set_link(self, index: int, up: bool) -> None:
        """Plug or unplug the ``index``-th network card."""
        self.execute("set_link", name=f"nic{index}", up=up)

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        super().kill()
        self._close()

    def abandon(self) -> None:
        """End it where its start has failed, see `VmmProcess.abandon`."""
        super().abandon()
        self._close()

    def _close(self) -> None:
        if self._agent is not None:
            self._agent.close()
        self._free_memory()

    def _ended(self, exit: VmmExit) -> None:
        try:
            self._free_memory()  # a guest that reboots goes on in another one
        finally:
            super()._ended(exit)

    def _free_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()


def _console_ends(ends: Ends, binary: QemuBinary) -> tuple[ConsolePipes, int, int]:
    """The driver's ends of the console, and those for QEMU's output and its keyboard."""
    if binary.has_console_pipes:
        return ends.console()
    ours, theirs = socket.socketpair()
    output, to_output = ends.ours(FileIO(ours.detach())), ends.theirs(theirs.detach())
    keyboard = ends.ours(FileIO(os.dup(output.fileno()), "w"))
    return ConsolePipes(output, keyboard), to_output, ends.theirs(os.dup(to_output))
