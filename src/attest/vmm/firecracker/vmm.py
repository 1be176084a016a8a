"""Firecracker: a VMM for KVM hosts, driven through its API on a Unix socket.

Each process has a working directory of its own, for its sockets and its files. It is told their
names without a directory, and those go into its snapshots: so a clone finds its own vsock and disks
wherever it is loaded, no two ever meet, and no left-over socket is in the way.

The guest's `poweroff` would halt its processors and leave the process: so the agent reboots the
guest where it is to power it off (``attest.poweroff=reboot``), and a reboot ends the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Final

from msgspec.structs import replace

from attest.errors import reason_of
from attest.vmm.api_vmm import API, ApiVmm
from attest.vmm.base import (
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
from attest.vmm.firecracker.binary import FirecrackerBinary
from attest.vmm.firecracker.jailer import Jail
from attest.vmm.firecracker.uffd import UffdHandler
from attest.vmm.http_api import ApiError
from attest.vmm.process import WatchedProcess
from attest.vmm.vsock import HybridVsock
from attest.vmm.workdir import OpenWorkdir, Workdir

__all__ = ["Firecracker"]

_TRANSPARENT: Final = (1, 17)
"""The first Firecracker that asks the kernel for huge pages where it has some."""

_CID: Final = 3
"""The guest's address on its own vsock, to which no other machine has a connection."""

_VSOCK, _LOG, _KERNEL_FILE, _INITRD, _ROOT = (
    "vsock", "log", "vmlinux", "initrd", "root",
)  # fmt: skip
_STATE, _MEMORY, _METRICS, _UFFD = "state", "memory", "metrics", "uffd"
"""Names in the process's directory."""

_ARGUMENTS: Final = ("--api-sock", API, "--log-path", _LOG, "--level", "Error")

_MEMORY_LIMIT: Final = 600.0
"""Seconds in which a memory must be written, or loaded."""

_CONSOLE: Final = 1 << 20
"""Bytes of the console's pipe: what does not fit in there is lost, as the guest never waits."""

# As with QEMU, where the reasons are; and a keyboard controller that is not looked for in vain.
_KERNEL: Final = (
    "console=ttyS0 loglevel=6 panic=1 reboot=k net.ifnames=0 random.trust_cpu=on "
    "i8042.noaux i8042.nomux i8042.dumbkbd attest.poweroff=reboot"
)


class Firecracker(ApiVmm):
    """One Firecracker process, running from construction.

    Args:
        spec: What to run. Its ``memory_file`` only says where `save` will put the memory, and
            ``prefault`` changes nothing.
        binary: The program.
        enter: Turns a command line into one that runs in the cluster's cell.
        on_exit: Called once when the process has ended.
        on_event: Not called: Firecracker tells of no events.
        api_limit: Seconds until the process listens; it takes some milliseconds.

    Attributes:
        name: The machine's name.
        console: The driver's ends of the console; who uses them closes them.

    Raises:
        HostError: It is to be locked up, and cannot be.
        ApiError: It refused to boot.
        SaveError: It refused to load what was saved.
    """

    title = "Firecracker"

    def __init__(
        self,
        spec: MachineSpec,
        binary: FirecrackerBinary,
        *,
        enter: Callable[[Sequence[str]], list[str]],
        on_exit: OnExit,
        on_event: OnEvent,
        api_limit: float = 30.0,
    ) -> None:
        super().__init__(spec, _workdir(spec, binary.path), on_exit)
        self._binary = binary
        self._enter = enter
        self._handler: UffdHandler | None = None
        self._api_limit = api_limit
        self._run(self._start, self._begin)

    def _start(self) -> WatchedProcess:
        log = self._spec.directory / "firecracker.log"
        log.touch()
        self._workdir.show(_LOG, log, writable=True)
        with Ends() as ends:
            self.console, stdout, stdin = ends.console()
            with contextlib.suppress(OSError):  # the user has many pipes
                fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, _CONSOLE)
            return WatchedProcess(
                self._enter(self._workdir.command(self._binary.path, _ARGUMENTS)),
                pass_fds=(),
                # Firecracker writes its log from the start of the file, and a last error, which
                # goes to standard error, behind it.
                stderr=log,
                stdin=stdin,
                stdout=stdout,
                on_exit=self._ended,
                complete=self._complete,
            )

    def _begin(self) -> None:
        self._api.await_server(self._process.wait, self._api_limit)
        self._put("/metrics", {"metrics_path": _METRICS})
        if self._spec.saved is None:
            self._boot()
            return
        if self._spec.hugepages:
            self._handler = self._start_handler(self._spec.saved)
        self._load()

    def _start_handler(self, saved: Saved) -> UffdHandler:
        """What brings the guest its memory, which Firecracker cannot map as huge pages."""
        assert saved.memory is not None, "Firecracker saves it into a file of its own"
        path = self._workdir.path / _UFFD
        try:
            handler = UffdHandler(
                saved.memory,
                path,
                enter=self._enter,
                log=self._spec.directory / "uffd.log",
                on_failure=lambda: self._process.kill(wait=False),
            )
        except OSError as error:  # the end of the process takes its directory away
            raise SaveError(f"its memory cannot be brought: {reason_of(error)}") from error
        try:
            path.chmod(0o666)  # Firecracker may be another user, who alone enters the directory
        except OSError as error:
            handler.end()
            raise SaveError(f"its memory cannot be brought: {reason_of(error)}") from error
        return handler

    def _boot(self) -> None:
        self._put("/machine-config", _machine(self._spec, self._binary))
        self._put(
            "/boot-source",
            {
                "kernel_image_path": _KERNEL_FILE,
                "initrd_path": _INITRD,
                "boot_args": _kernel_arguments(self._spec),
            },
        )
        if self._spec.image.root is not None:
            self._put_drive(_ROOT, read_only=True)
        for name in self._spec.disk_names:
            self._put_drive(name, read_only=False)
        for index, nic in enumerate(self._spec.nics):
            self._put(
                f"/network-interfaces/nic{index}",
                {"iface_id": f"nic{index}", "host_dev_name": nic.tap, "guest_mac": nic.mac},
            )
        self._put("/vsock", {"guest_cid": _CID, "uds_path": _VSOCK})
        self._put("/entropy", {})
        if self._spec.balloon:
            balloon = {"amount_mib": 0, "deflate_on_oom": True, "free_page_reporting": True}
            self._put("/balloon", balloon)
        self._put("/actions", {"action_type": "InstanceStart"})

    def _put_drive(self, name: str, *, read_only: bool) -> None:
        drive = {
            "drive_id": name,
            "is_root_device": False,  # the kernel is told by attest.root
            "is_read_only": read_only,
            "path_on_host": name,
        }
        self._put(f"/drives/{name}", drive)

    def _load(self) -> None:
        if self._handler is None:
            memory = {"backend_type": "File", "backend_path": _MEMORY}
        else:
            memory = {"backend_type": "Uffd", "backend_path": _UFFD}
        request = {
            "snapshot_path": _STATE,
            "mem_backend": memory,
            "network_overrides": [
                {"iface_id": f"nic{index}", "host_dev_name": nic.tap}
                for index, nic in enumerate(self._spec.nics)
            ],
            "resume_vm": not self._spec.paused,
        }
        self._paused = self._spec.paused
        self._put_memory("/snapshot/load", request)

    def _put(self, path: str, body: dict[str, Any]) -> None:
        with self._explained():
            self._api.put(path, body)

    def _put_memory(self, path: str, body: dict[str, Any]) -> None:
        try:
            with self._explained():
                self._api.put(path, body, timeout=_MEMORY_LIMIT)
        except ApiError as error:
            raise SaveError(reason_of(error)) from error

    def abandon(self) -> None:
        """End it where its start has failed, see `VmmProcess.abandon`."""
        super().abandon()
        if self._handler is not None:  # it may have come after the end, which ends it too
            self._handler.end()

    def _complete(self, exit: VmmExit) -> VmmExit:
        metrics = _read_metrics(self._workdir.path / _METRICS)
        self._workdir.remove()
        failure = self._handler.end() if self._handler else ""
        expected = exit.expected and not failure
        return replace(exit, expected=expected, stderr=f"{exit.stderr}{failure}", metrics=metrics)

    def dial(self, greet: Greet, timeout: float, dead: Callable[[], str]) -> None:
        """Connect to the guest's agent and greet it, see `attest.vmm.base.Vmm.dial`."""
        connect = HybridVsock(self._workdir.path / _VSOCK)
        dial(connect, greet, timeout, vmm=self._process, vcpus="fc_vcpu", dead=dead)

    def drain(self) -> None:
        """Return when its network cards have read what had come for them before."""
        for _ in range(2):  # its one event loop serves both, in turns
            with self._explained():
                self._api.get("/")

    def pause(self) -> None:
        """Stop its processors; nothing happens when it is paused.

        It is meant for a machine that is saved next. One that goes on afterwards has lost all its
        connections to the agent without either end being told, and takes new ones; and one that
        goes on without having been saved takes none any more in Firecracker 1.16, whose vsock then
        waits for an answer to what it has not sent.
        """
        if not self._paused:
            with self._explained():
                self._api.patch("/vm", {"state": "Paused"})
            self._paused = True

    def resume(self) -> None:
        """Let it go on; nothing happens when it runs."""
        if self._paused:
            with self._explained():
                self._api.patch("/vm", {"state": "Resumed"})
            self._paused = False

    def save(self, directory: Path) -> Saved:
        """Stop it for good and save it so that clones map its memory.

        Args:
            directory: Where its files go.

        Raises:
            SaveError: It could not be saved.
        """
        return self.save_running(directory)

    def save_running(self, directory: Path) -> Saved:
        """Pause it and save it; it can be resumed, and clones map its memory.

        Its connections to the agent do not survive, see `pause`.

        Args:
            directory: Where its files go.

        Raises:
            SaveError: It could not be saved.
        """
        self.pause()
        with self._workdir.receive(directory) as name:
            request = {
                "snapshot_type": "Full",
                "snapshot_path": f"{name}/{_STATE}",
                "mem_file_path": f"{name}/{_MEMORY}",
            }
            self._put_memory("/snapshot/create", request)
        return Saved(directory / _MEMORY, directory / _STATE)


def _workdir(spec: MachineSpec, firecracker: Path) -> Workdir:
    """A new working directory, in which all is that the machine has."""
    workdir: Workdir
    if spec.jail:
        workdir = Jail(spec.directory, firecracker)
    else:
        workdir = OpenWorkdir(spec.directory, "firecracker-")
    if spec.saved is None:
        assert spec.image.vmlinux is not None, "a resolved node asks `Capabilities.compressed`"
        workdir.show(_KERNEL_FILE, spec.image.vmlinux)
        workdir.show(_INITRD, spec.image.initrd)
    else:
        workdir.show(_STATE, spec.saved.state)
        if spec.saved.memory is not None and not spec.hugepages:
            workdir.show(_MEMORY, spec.saved.memory)
    if spec.image.root is not None:
        workdir.show(_ROOT, spec.image.root)
    for name, disk in zip(spec.disk_names, spec.disks, strict=True):
        workdir.show(name, disk, writable=True)
    return workdir


def _machine(spec: MachineSpec, binary: FirecrackerBinary) -> dict[str, Any]:
    machine: dict[str, Any] = {"vcpu_count": spec.vcpus, "mem_size_mib": spec.memory}
    if spec.hugepages:
        machine["huge_pages"] = "2M"
    elif binary.version >= _TRANSPARENT:
        machine["huge_pages"] = "Transparent"
    return machine


def _read_metrics(file: Path) -> dict[str, int]:
    """What a Firecracker has counted until its end; nothing when it was killed."""
    try:
        last = json.loads(file.read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    groups = ((name, each) for name, each in last.items() if isinstance(each, dict))
    return {
        f"{group}.{name}": value
        for group, values in groups
        for name, value in values.items()
        if isinstance(value, int) and value
    }


def _kernel_arguments(spec: MachineSpec) -> str:
    # The root is the first drive; a drive's serial number is one that Firecracker chooses.
    image = spec.image
    letters = ascii_lowercase[image.root is not None :]
    devices = [f"/dev/vd{letter}" for letter in letters[: len(spec.disks)]]
    overlay = devices.pop() if spec.root_size else ""
    named = bool(devices) and not image.own_initrd  # by attest's initrd
    disks = [f"attest.disks={','.join(devices)}"] if named else []
    return " ".join([_KERNEL, *disks, *spec.image_parameters("/dev/vda", overlay)])
