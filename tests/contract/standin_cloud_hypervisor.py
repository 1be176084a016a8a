"""Stands in for Cloud Hypervisor: its command line, its API as described, when a call is legal, and
the events that it tells.

Instead of a guest there is the real agent, on this host. Words on the kernel's command line make
the guest another one: ``standin.reboot`` reboots once, as soon as it has booted, ``standin.off``
powers off, ``standin.deaf`` has no agent, and to ``standin.traffic`` packets come all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
from io import FileIO
from pathlib import Path
from typing import Any

from tests.contract.openapi import Description
from tests.contract.server import Answer, ApiServer, HybridVsock, Request, start_agent

AGENT_PORT = 1024
AGENT = Path("agent")
"""In the working directory, like the vsock's socket."""

RANGES = "memory-ranges"
NO_SUCH_FILE = "No such file or directory (os error 2)"


class Refused(Exception):
    """A request is refused; its arguments are the causes, the outermost first."""


class CloudHypervisor:
    """The state of one process."""

    def __init__(self, description: Description, events: int) -> None:
        self.description = description
        self.events = FileIO(events, "w")
        self.lock = threading.Lock()
        self.state = ""
        self.config: dict[str, Any] = {}
        self.vsock: HybridVsock | None = None
        self.counted = 0

    def handle(self, request: Request) -> Answer | None:
        """The answer to a request that is as described."""
        with self.lock:
            try:
                return self._do(request)
            except Refused as refusal:
                return Answer(500, ["Error from API", *refusal.args])

    def _do(self, request: Request) -> Answer | None:
        match request.method, request.path.removeprefix("/api/v1/"):
            case "GET", "vm.counters":
                return Answer(200, self._counters())
            case "PUT", "vm.create":
                self._create(request.body)
            case "PUT", "vm.boot":
                self._boot()
            case "PUT", "vm.pause":
                self._need("Running", "The VM could not be paused")
                self.state = "Paused"
            case "PUT", "vm.resume":
                self._need("Paused", "The VM could not resume")
                self._run()
            case "PUT", "vm.snapshot":
                self._snapshot(place(request.body["destination_url"]))
            case "PUT", "vm.restore":
                self._restore(place(request.body["source_url"]))
            case "PUT", "vmm.shutdown":
                self.tell("vmm", "shutdown")
                return Answer(204, exit_code=0)
            case other:
                raise AssertionError(other)
        return None

    def _create(self, config: dict[str, Any]) -> None:
        require(not self.config, "The VM could not be created", "VM is already created")
        self.config = checked(config)

    def _boot(self) -> None:
        require(bool(self.config), "The VM could not boot", "VM config is missing")
        self.tell("vm", "booting")
        self._make("The VM could not boot")
        self._run()
        self.tell("vm", "booted")
        self._say_hello()
        for word, then in (("standin.reboot", self._reboot), ("standin.off", self._power_off)):
            if word in self.config["payload"]["cmdline"]:
                threading.Timer(0.05, then).start()

    def _make(self, otherwise: str) -> None:
        """The guest and its devices."""
        payload = self.config["payload"]
        for file in (payload["kernel"], payload["initramfs"]):
            require(Path(file).is_file(), otherwise, "Cannot open the payload", NO_SUCH_FILE)
        for disk in self.config.get("disks", ()):
            require(Path(disk["path"]).is_file(), otherwise, "Cannot open disk path", NO_SUCH_FILE)
        for zone in self.config["memory"]["zones"]:
            if "file" in zone:
                file = Path(zone["file"])
                require(file.is_file(), otherwise, "Cannot create RAM region", NO_SUCH_FILE)
                big = file.stat().st_size >= zone["size"]
                require(big, otherwise, "Cannot create RAM region", "past the end of the file")
        taps = [each["tap"] for each in self.config.get("net", ())]
        require(len(set(taps)) == len(taps), otherwise, "Failed to open taps", "Resource busy")
        self._bind(otherwise)

    def _bind(self, otherwise: str) -> None:
        deaf = "standin.deaf" in self.config["payload"]["cmdline"]
        try:
            path = Path(self.config["vsock"]["socket"])
            self.vsock = HybridVsock(path, {} if deaf else {AGENT_PORT: AGENT})
        except OSError as error:
            raise Refused(otherwise, "Cannot create virtio-vsock backend", str(error)) from None

    def _run(self) -> None:
        self.state = "Running"
        if self.vsock is not None:
            self.vsock.serve()
            self.vsock = None

    def _say_hello(self) -> None:
        print("[    0.000000] Command line:", self.config["payload"]["cmdline"], flush=True)
        print("attest-stage: init", flush=True)

    def _reboot(self) -> None:
        with self.lock:
            self.tell("vm", "rebooting")
            Path(self.config["vsock"]["socket"]).unlink()
            self._make("The VM could not be rebooted")
            self._run()
            self.tell("vm", "rebooted")
            self._say_hello()

    def _power_off(self) -> None:
        self.tell("vm", "shutdown")
        os._exit(0)

    def _snapshot(self, directory: Path) -> None:
        failed = "The VM could not be snapshotted"
        require(self.state == "Paused", failed, "Trying to snapshot while VM is running")
        zones = self.config["memory"]["zones"]
        kept_elsewhere = all("file" in zone and zone["shared"] for zone in zones)
        size = sum(zone["size"] for zone in zones)
        state = {"ranges": 0 if kept_elsewhere else size, "devices": devices(self.config)}
        try:
            with (directory / "config.json").open("x") as file:
                json.dump(self.config, file)
            with (directory / "state.json").open("x") as file:
                json.dump(state, file)
            if not kept_elsewhere:
                with (directory / RANGES).open("xb") as memory:
                    memory.truncate(size)
        except OSError as error:
            raise Refused(failed, str(error)) from None
        self.tell("vm", "snapshotted")

    def _restore(self, directory: Path) -> None:
        failed = "The VM could not be restored"
        require(not self.config, failed, "VM is already created")
        try:
            state = json.loads((directory / "state.json").read_text())
            config = json.loads((directory / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise Refused(failed, "Cannot read the snapshot", str(error)) from None
        mistakes = list(self.description.mistakes(VM_CONFIG, config, ""))
        require(not mistakes, failed, "config.json is not as described", *mistakes)
        with Path(os.environ["ATTEST_STANDIN"], "restored.jsonl").open("a") as record:
            record.write(json.dumps(config) + "\n")
        require(devices(config) == state["devices"], failed, "Cannot restore the devices")
        if state["ranges"]:
            ranges = directory / RANGES
            require(ranges.is_file(), failed, "Cannot open the memory", NO_SUCH_FILE)
            require(ranges.stat().st_size >= state["ranges"], failed, "unexpected end of file")
        self.config = checked(config)
        try:
            self._make(failed)
        except Refused:
            self.config = {}
            raise
        self.state = "Paused"
        self.tell("vm", "restored")

    def _counters(self) -> dict[str, dict[str, int]]:
        """A card reads what has come for it between the first three questions, or between all."""
        self._need("Running", "The VM counters could not be read")
        self.counted += 1
        busy = "standin.traffic" in self.config["payload"]["cmdline"]
        frames = 100 * self.counted if busy else min(self.counted, 3)
        read = {"rx_bytes": 64, "rx_frames": frames, "tx_frames": self.counted}
        return {each["id"]: read for each in self.config.get("net", ())} | {"root": {"read_ops": 1}}

    def _need(self, state: str, otherwise: str) -> None:
        require(self.state == state, otherwise, f"Invalid transition from {self.state or 'None'}")

    def tell(self, source: str, event: str) -> None:
        """Tell an event, in the way of the real one: several lines, and an empty one behind."""
        timestamp = {"secs": 1, "nanos": 0}
        told = {"timestamp": timestamp, "source": source, "event": event, "properties": None}
        self.events.write(json.dumps(told, indent=2).encode() + b"\n\n")


VM_CONFIG = {"$ref": "#/components/schemas/VmConfig"}


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that is valid, beyond what its description says."""
    failed = "The VM configuration is invalid"
    require(config["console"]["mode"] in ("Off", "Null"), failed, "two devices on one terminal")
    require(config["memory"]["size"] == 0, failed, "zones, and a size that is not 0")
    for rule in config.get("landlock_rules", ()):
        require(Path(rule["path"]).exists(), failed, f"Path {rule['path']} does not exist")
    return config


def devices(config: dict[str, Any]) -> list[str]:
    """All by whose ids saved state is found; what has none gets one that depends on the others."""
    found = [config["rng"], config["vsock"], *config["memory"]["zones"]]
    found += [*config.get("disks", ()), *config.get("net", ())]
    return [each.get("id", f"_anonymous{index}") for index, each in enumerate(found)]


def require(condition: bool, *causes: str) -> None:
    if not condition:
        raise Refused(*causes)


def place(url: str) -> Path:
    require(url.startswith("file:///"), "Cannot use the URL", url)
    return Path(url.removeprefix("file://"))


def fault(text: str) -> list[str]:
    return [text]


def echo() -> None:
    """The guest says what is typed into its console; only a terminal is read, as in reality."""
    if os.isatty(sys.stdin.fileno()):
        while data := os.read(sys.stdin.fileno(), 64):
            sys.stdout.write(f"typed: {data.decode()}")
            sys.stdout.flush()


def descriptor(text: str) -> int:
    kind, _, number = text.partition("=")
    assert kind == "fd", text
    return int(number)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--api-socket", type=descriptor, required="--version" not in sys.argv)
    parser.add_argument("--event-monitor", type=descriptor)
    parser.add_argument("--seccomp", choices=["true", "false", "log"])
    options = parser.parse_args()
    if options.version:
        print(f"cloud-hypervisor v{os.environ.get('ATTEST_STANDIN_VERSION', '53.0')}")
        print("Migration Protocol Versions: 0")
        return
    print("cloud-hypervisor: a word in the log", file=sys.stderr, flush=True)
    start_agent(AGENT)
    threading.Thread(target=echo, daemon=True).start()
    description = Description(Path(os.environ["ATTEST_STANDIN_DESCRIPTION"]))
    vmm = CloudHypervisor(description, options.event_monitor)
    listener = socket.socket(fileno=options.api_socket)
    ApiServer(description, listener, vmm.handle, fault=fault).run()


main()
