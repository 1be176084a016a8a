"""Stands in for Firecracker: its command line, its API as described, and when a call is legal.

Instead of a guest there is the real agent, on this host. Words on the kernel's command line make
the guest another one: ``standin.panic`` panics as soon as it boots, ``standin.deaf`` has no agent.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from tests.contract.openapi import Description
from tests.contract.server import Answer, ApiServer, HybridVsock, Request, start_agent

AGENT_PORT = 1024
MEBIBYTE = 1 << 20
AGENT = Path("agent")
"""In the working directory, like the sockets."""

NOT_AFTER = "The requested operation is not supported after starting the microVM."
NOT_BEFORE = "The requested operation is not supported before starting the microVM."
NOT_CONFIGURED = "Cannot start microvm without kernel configuration."
NOT_FRESH = "Loading a microVM snapshot not allowed after configuring boot-specific resources."

USERFAULTFD, USER_MODE_ONLY, UFFDIO_API = 323, 1, 0xC018AA3F
"""A system call's number on x86-64, a flag and a request, see userfaultfd(2)."""

KEPT = ("logger", "metrics", "serial", "cpu-config", "mmds")
"""What may be set before a snapshot is loaded."""


class Refused(Exception):
    """The text of a fault message."""


class Firecracker:
    """The state of one process."""

    def __init__(self) -> None:
        self.state = "Not started"
        self.fresh = True
        self.boot: dict[str, Any] = {}
        self.memory = 128
        self.nics: dict[str, str] = {}
        self.uds_path = ""
        self.vsock: HybridVsock | None = None

    def handle(self, request: Request) -> Answer | None:
        """The answer to a request that is as described."""
        try:
            return self._do(request)
        except Refused as refusal:
            loading = request.path == "/snapshot/load" and str(refusal) != NOT_FRESH
            if loading:
                print("Error: RunWithApi(MicroVMStoppedWithError(GenericError))", file=sys.stderr)
            return Answer(400, fault(str(refusal)), exit_code=1 if loading else None)

    def _do(self, request: Request) -> Answer | None:
        kind, _, name = request.path.removeprefix("/").partition("/")
        body = request.body
        match request.method, kind, name:
            case "GET", "", "":
                return Answer(200, self._about())
            case "PATCH", "vm", "":
                self._patch_vm(body)
            case "PUT", "snapshot", "create":
                self._create_snapshot(body)
            case "PUT", "snapshot", "load":
                self._load_snapshot(body)
            case "PUT", "actions", "":
                assert body == {"action_type": "InstanceStart"}, body
                self._start()
            case "PUT", _, _:
                self._configure(kind, name, body)
        return None

    def _about(self) -> dict[str, str]:
        return {
            "app_name": "Firecracker", "id": "anonymous-instance", "state": self.state,
            "vmm_version": version(),
        }  # fmt: skip

    def _configure(self, kind: str, name: str, body: dict[str, Any]) -> None:
        require(self.state == "Not started", NOT_AFTER)
        self.fresh = self.fresh and kind in KEPT
        if kind == "boot-source":
            openable(body["kernel_image_path"], "The kernel file cannot be opened")
            openable(body["initrd_path"], "The initrd file cannot be opened")
            self.boot = body
        elif kind == "machine-config":
            self.memory = body["mem_size_mib"]
        elif kind == "drives":
            require(name == body["drive_id"], "path_id does not match body id")
            openable(body["path_on_host"], "Unable to patch the block device")
        elif kind == "network-interfaces":
            require(name == body["iface_id"], "path_id does not match body id")
            require(body["host_dev_name"] not in self.nics.values(), "Resource busy")
            self.nics[name] = body["host_dev_name"]
        elif kind == "vsock":
            self._bind(body["uds_path"])
        elif kind == "metrics":
            counted = {"utc_timestamp_ms": 1, "vcpu": {"exit_io_in": 7, "failures": 0}}
            Path(body["metrics_path"]).write_text(json.dumps(counted) + "\n")

    def _bind(self, path: str) -> None:
        ports = {} if "standin.deaf" in self.boot.get("boot_args", "") else {AGENT_PORT: AGENT}
        self.uds_path = path
        try:
            self.vsock = HybridVsock(Path(path), ports)
        except OSError as error:
            raise Refused(f"Error binding to the host-side Unix socket: {error}") from None

    def _start(self) -> None:
        require(self.state == "Not started", NOT_AFTER)
        require(bool(self.boot), NOT_CONFIGURED)
        self._run()
        print("[    0.000000] Command line:", self.boot["boot_args"], flush=True)
        print("attest-stage: init", flush=True)
        if "standin.panic" in self.boot["boot_args"]:
            print("[    1.0] Kernel panic - not syncing: as it was told", flush=True)
            threading.Timer(0.05, os._exit, [0]).start()

    def _run(self) -> None:
        self.state = "Running"
        if self.vsock is not None:
            self.vsock.serve()
            self.vsock = None

    def _patch_vm(self, body: dict[str, Any]) -> None:
        require(self.state != "Not started", NOT_BEFORE)
        if body["state"] == "Paused":
            self.state = "Paused"
        else:
            self._run()

    def _create_snapshot(self, body: dict[str, Any]) -> None:
        require(self.state != "Not started", NOT_BEFORE)
        require(self.state == "Paused", "Create snapshot error: the microVM is not paused")
        state = {"memory": self.memory, "nics": self.nics, "uds_path": self.uds_path}
        try:
            Path(body["snapshot_path"]).write_text(json.dumps(state))
            with Path(body["mem_file_path"]).open("wb") as memory:
                memory.truncate(self.memory * MEBIBYTE)
        except OSError as error:
            raise Refused(f"Create snapshot error: {error}") from None

    def _load_snapshot(self, body: dict[str, Any]) -> None:
        require(self.state == "Not started", NOT_AFTER)
        require(self.fresh, NOT_FRESH)
        openable(body["snapshot_path"], "Load snapshot error: Failed to open snapshot file")
        try:
            state = json.loads(Path(body["snapshot_path"]).read_text())
        except ValueError:
            raise Refused("Load snapshot error: CRC64 validation failed") from None
        self._load_memory(state["memory"] * MEBIBYTE, **body["mem_backend"])
        taps = {each["iface_id"]: each["host_dev_name"] for each in body["network_overrides"]}
        unknown = taps.keys() - state["nics"].keys()
        require(not unknown, "Load snapshot error: Unknown Network Device")
        self.memory, self.nics = state["memory"], state["nics"] | taps
        self._bind(state["uds_path"])
        self.state = "Paused"
        if body.get("resume_vm", False):
            self._run()

    def _load_memory(self, size: int, backend_type: str, backend_path: str) -> None:
        if backend_type == "Uffd":
            ask_for_memory(size, backend_path)
            return
        openable(backend_path, "Load snapshot error: Failed to open memory file")
        same = Path(backend_path).stat().st_size == size
        require(same, "Load snapshot error: memory size mismatch")


def ask_for_memory(size: int, path: str) -> None:
    """Have a page-fault handler, as for huge pages, of which this guest touches none."""
    uffd = ctypes.CDLL(None).syscall(USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY)
    fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
    region = {"base_host_virt_addr": 1 << 40, "size": size, "offset": 0, "page_size": 2 * MEBIBYTE}
    handler = socket.socket(socket.AF_UNIX)
    try:
        handler.connect(path)
    except OSError as error:
        raise Refused(f"Load snapshot error: cannot connect to the UFFD socket: {error}") from None
    socket.send_fds(handler, [json.dumps([region]).encode()], [uffd])


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Refused(otherwise)


def openable(path: str, otherwise: str) -> None:
    require(Path(path).is_file(), f"{otherwise}: No such file or directory (os error 2)")


def fault(text: str) -> dict[str, str]:
    return {"fault_message": text}


def version() -> str:
    return os.environ.get("ATTEST_STANDIN_VERSION", "1.16.1")


def echo() -> None:
    """The guest says what is typed into its console."""
    for line in sys.stdin:
        print(f"typed: {line}", end="", flush=True)


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
    except OSError as error:
        print(f"Error: Failed to open the API socket at: {path}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    listener.listen()
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--snapshot-version", action="store_true")
    parser.add_argument("--api-sock", required="--api-sock" in sys.argv)
    parser.add_argument("--log-path")
    parser.add_argument("--level", choices=["Off", "Error", "Warning", "Info", "Debug", "Trace"])
    options = parser.parse_args()
    if options.version:
        print(f"Firecracker v{version()}\n")
    elif options.snapshot_version:
        print("v10.0.0")
    else:
        # From the start of the file, and not emptied, as Firecracker opens it.
        log = os.open(options.log_path, os.O_RDWR | os.O_CREAT)
        os.write(log, b"[anonymous-instance:main] a word in the log\n")
        start_agent(AGENT)
        threading.Thread(target=echo, daemon=True).start()
        description = Description(Path(os.environ["ATTEST_STANDIN_DESCRIPTION"]))
        ApiServer(description, listen(options.api_sock), Firecracker().handle, fault=fault).run()


main()
