"""Cloud Hypervisor: a VMM for KVM hosts, driven through its API on a Unix socket.

It inherits the socket on which it serves its API, already listening, the pipe into which it tells
what happens to the guest, and the console. Each process has a directory of its own as its working
directory, for its vsock; the name that it is told of that is without a directory.

What continues a saved machine is given a directory as `vm.snapshot` makes it, but with a
``config.json`` of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from attest.errors import reason_of
from attest.support.listeners import tell
from attest.support.sparse_copy import copy_sparse
from attest.support.unix_sockets import listen
from attest.vmm.api_vmm import API, ApiVmm
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
from attest.vmm.cloud_hypervisor.binary import CloudHypervisorBinary
from attest.vmm.cloud_hypervisor.config import VSOCK, vm_config
from attest.vmm.cloud_hypervisor.event_monitor import GuestEvent, read_events
from attest.vmm.cloud_hypervisor.whole_state import read_devices, write_whole
from attest.vmm.dial import dial
from attest.vmm.ends import Ends
from attest.vmm.http_api import ApiError
from attest.vmm.process import WatchedProcess
from attest.vmm.vsock import HybridVsock
from attest.vmm.workdir import OpenWorkdir

__all__ = ["CloudHypervisor"]

_SNAPSHOT: Final = "snapshot"
"""Name of the directory for snapshots in the process's directory."""

_MEMORY_LIMIT: Final = 600.0
"""Seconds in which a memory must be allocated, written, or loaded."""

_TAP_QUEUE: Final = 1000
"""Packets that wait in a tap at most; Linux drops what comes beyond its `txqueuelen`, which is that
for a tap unless somebody changes it."""


class CloudHypervisor(ApiVmm):
    """One Cloud Hypervisor process, running from construction.

    Args:
        spec: What to run.
        binary: The program.
        enter: Turns a command line into one that runs in the cluster's cell.
        on_exit: Called once when the process has ended.
        on_event: Called with ``"RESET"`` and ``{"guest": True}`` when the guest has rebooted.

    Attributes:
        name: The machine's name.
        console: The driver's ends of the console; who uses them closes them.

    Raises:
        ApiError: It refused to boot.
        HostError: A memory that was saved cannot be copied.
        SaveError: It refused to load what was saved.
    """

    title = "Cloud Hypervisor"

    def __init__(
        self,
        spec: MachineSpec,
        binary: CloudHypervisorBinary,
        *,
        enter: Callable[[Sequence[str]], list[str]],
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> None:
        workdir = OpenWorkdir(spec.directory, "cloud-hypervisor-")
        self._memory: Path | None = None
        if spec.shared_memory:
            # A file, and not a memfd: Landlock, under which it runs, knows no such files.
            self._memory = workdir.path / "memory"
            spec = replace(spec, shared_memory=False, memory_file=self._memory)
        if spec.memory_file is not None:
            _make_memory(spec.memory_file, spec)
        super().__init__(spec, workdir, on_exit, base="/api/v1")
        self._binary = binary
        self._enter = enter
        self._on_event = on_event
        self._run(self._start, self._begin)

    def _start(self) -> WatchedProcess:
        self._config = vm_config(self._spec, self._workdir.path)
        with Ends() as ends:
            listener = ends.theirs(listen(self._workdir.path / API).detach())
            output, stdout = ends.from_process()
            typist, stdin = _keyboard(ends)
            self.console = ConsolePipes(output, typist)
            events, tell = os.pipe()
            ends.theirs(tell)
            self._monitor = threading.Thread(  # closes its end, when all others are closed
                target=self._read_events,
                args=[FileIO(events)],
                name=f"events {self.name}",
                daemon=True,
            )
            self._monitor.start()
            return WatchedProcess(
                self._enter(self._workdir.command(self._binary.path, _arguments(listener, tell))),
                pass_fds=(listener, tell),
                stderr=self._spec.directory / "cloud-hypervisor.log",
                stdin=stdin,
                stdout=stdout,
                on_exit=self._ended,
            )

    def _begin(self) -> None:
        if self._spec.saved is None:
            self._boot()
        else:
            self._load(self._spec.saved)

    def _boot(self) -> None:
        self._put("/vm.create", self._config)
        self._put("/vm.boot")

    def _load(self, saved: Saved) -> None:
        (zone,) = self._config["memory"]["zones"]
        with self._saving() as directory:
            (directory / "config.json").write_text(json.dumps(self._config))
            (directory / "state.json").write_bytes(read_devices(saved.state))
            # Of a memory that is mapped it reads nothing.
            (directory / "memory-ranges").symlink_to(saved.state.absolute())
            request = {"source_url": f"file://{directory}", "prefault": zone["prefault"]}
            self._put("/vm.restore", request)
            self._paused = True
            if not self._spec.paused:
                self.resume()

    def _put(self, path: str, body: dict[str, Any] | None = None) -> None:
        with self._explained():
            self._api.put(path, body, timeout=_MEMORY_LIMIT)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[Path]:
        """A directory for a snapshot, which is of no use afterwards; what fails is a SaveError."""
        directory = self._workdir.path / _SNAPSHOT
        try:
            directory.mkdir()
            yield directory
        except ApiError as error:
            raise SaveError(reason_of(error)) from error
        except (OSError, ValueError) as error:
            # The end of the process takes its directory away.
            text = f"Cloud Hypervisor ended with {self.exit}" if self.exit else reason_of(error)
            raise SaveError(text) from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    # What happens to the guest

    def _read_events(self, pipe: FileIO) -> None:
        with pipe:
            for event in read_events(pipe):
                if event == GuestEvent("vm", "rebooting") and not self._spec.allow_reboot:
                    self._shut_down()
                elif event == GuestEvent("vm", "rebooted") and self._spec.allow_reboot:
                    tell(self._on_event, "RESET", {"guest": True})

    def _shut_down(self) -> None:
        """End the process, of which it makes an end as of a guest that powers off.

        It has begun to reboot the guest, and listens when that is done, before the guest gets far.
        """
        try:
            self._api.put("/vmm.shutdown")
        except ApiError:  # it may end before it answers
            self._process.kill(wait=False)

    def _ended(self, exit: VmmExit) -> None:
        try:
            self._monitor.join()
            self._workdir.remove()
        finally:
            super()._ended(exit)

    # What a machine asks of its VMM

    def dial(self, greet: Greet, timeout: float, dead: Callable[[], str]) -> None:
        """Connect to the guest's agent and greet it, see `attest.vmm.base.Vmm.dial`."""
        connect = HybridVsock(self._workdir.path / VSOCK)
        dial(connect, greet, timeout, vmm=self._process, vcpus="vcpu", dead=dead)

    def drain(self) -> None:
        """Return when its network cards have read what had come for them before.

        Each card has a thread of its own, which tells nothing but how many packets it has read, the
        oldest first. It has read those of before when it reads no more, or, where more come all the
        time, when it has read as many as a tap can hold.
        """
        first = before = self._received()
        waiting = set(range(len(first)))
        while waiting:
            now = self._received()
            waiting = {
                card
                for card in waiting
                if now[card] != before[card] and now[card] - first[card] < _TAP_QUEUE
            }
            before = now

    def _received(self) -> list[int]:
        """The packets that each card has read."""
        if not self._spec.nics:
            return []
        with self._explained():
            counters = self._api.get("/vm.counters")
        return [counters[f"nic{index}"]["rx_frames"] for index in range(len(self._spec.nics))]

    def pause(self) -> None:
        """Stop its processors; nothing happens when it is paused."""
        if not self._paused:
            self._put("/vm.pause")
            self._paused = True

    def resume(self) -> None:
        """Let it go on; nothing happens when it runs."""
        if self._paused:
            self._put("/vm.resume")
            self._paused = False

    def save(self, directory: Path) -> Saved:
        """Stop it for good and save it so that clones map its memory, if that is in a file.

        Args:
            directory: Where its files go.

        Raises:
            SaveError: It could not be saved.
        """
        return self._save(directory, self._spec.memory_file)

    def save_running(self, directory: Path) -> Saved:
        """Pause it and write its memory and its devices' state into one file; it can be resumed.

        Memory that is shared goes into a file of its own.

        Args:
            directory: Where its files go.

        Raises:
            HostError: Its memory could not be copied.
            SaveError: It could not be saved.
            ValueError: Its memory is a file, which will change when it goes on.
        """
        if self._memory is not None:
            saved = self._save(directory, directory / "memory")
            copy_sparse(directory / "memory", self._memory)
            return saved
        if self._spec.memory_file is not None:
            raise ValueError(f"{self.name} has a memory file, so `save` is the way to save it")
        return self._save(directory, None)

    def _save(self, directory: Path, memory: Path | None) -> Saved:
        saved = Saved(memory, directory / "state")
        with self._saving() as made:
            self.pause()
            self._put("/vm.snapshot", {"destination_url": f"file://{made}"})
            write_whole(saved.state, made / "memory-ranges", made / "state.json")
        return saved


def _arguments(listener: int, tell: int) -> list[str]:
    return [
        "--api-socket", f"fd={listener}", "--event-monitor", f"fd={tell}", "--seccomp", "true",
    ]  # fmt: skip


def _make_memory(file: Path, spec: MachineSpec) -> None:
    """The machine's memory, as it was saved or empty; what is empty takes none of the disk."""
    if spec.saved and spec.saved.memory:
        copy_sparse(file, spec.saved.memory)
        return
    with file.open("xb") as memory:
        memory.truncate(spec.memory << 20)


def _keyboard(ends: Ends) -> tuple[FileIO, int]:
    """A terminal, as Cloud Hypervisor reads from nothing else: the typist's end, and its own."""
    typist, keyboard = os.openpty()
    ours = ends.ours(FileIO(typist, "w"))
    tty.setraw(ends.theirs(keyboard))
    return ours, keyboard
