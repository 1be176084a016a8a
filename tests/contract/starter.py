"""Starting a backend's VMM against its stand-in, and what its tests say of it and its requests."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from attest.errors import ChannelError
from attest.guest.agent.channel import AgentChannel
from attest.guest.channel import Command
from attest.guest.console import Console
from attest.net.cell import Cell
from attest.vmm.base import MachineSpec
from attest.vmm.cloud_hypervisor.vmm import CloudHypervisor
from attest.vmm.firecracker.vmm import Firecracker
from attest.vmm.program import Binary
from tests.contract.server import Bench
from tests.process_end import End

ApiVmm = Firecracker | CloudHypervisor


@dataclass
class Run:
    """A VMM under way.

    Attributes:
        vmm: The backend.
        console: Its console.
        events: The events that it has told.
    """

    vmm: ApiVmm
    console: Console
    events: list[tuple[str, dict[str, Any]]]


@dataclass
class Starter:
    """Starts VMMs of one kind, and ends them with the test.

    Attributes:
        kind: The backend.
        find: Finds its program.
        cell: Where they live.
        spec: What they run, but for the changes that a test wants.
        prefix: What the names of the processes' own directories begin with.
    """

    kind: Callable[..., ApiVmm]
    find: Callable[[], Binary]
    cell: Cell
    spec: MachineSpec
    prefix: str
    ends: list[End] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def __call__(self, **changes: Any) -> Run:
        name = f"machine{len(self.runs)}"
        spec = replace(self.spec, **({"name": name} | changes))
        end = End()
        self.ends.append(end)
        events: list[tuple[str, dict[str, Any]]] = []
        try:
            vmm = self.kind(
                spec, self.find(), enter=self.cell.enter, on_exit=end,
                on_event=lambda *event: events.append(event),
            )  # fmt: skip
        except ValueError:  # before there is a process
            self.ends.remove(end)
            raise
        log = self.spec.directory / f"console-{name}.log"
        console = Console(name, vmm.console, log, on_line=lambda _: None, on_alarm=lambda *_: None)
        self.runs.append(Run(vmm, console, events))
        return self.runs[-1]

    def close(self) -> None:
        """End all, and see that nothing is left of them."""
        for run in self.runs:
            run.vmm.kill()
            run.console.join()
        for end in self.ends:
            end.wait()
        assert self.left() == []

    def left(self) -> list[str]:
        """What is left of the processes' own directories."""
        return [path.name for path in self.spec.directory.glob(f"{self.prefix}*")]


def hears(run: Run, pattern: str) -> bool:
    return run.console.search(re.compile(pattern), 30)


def answers(run: Run, timeout: float = 30) -> bool:
    channel = greeted(run, timeout)
    try:
        return channel.run(Command("echo hello")).stdout == b"hello\n"
    finally:
        channel.close()


def greeted(run: Run, timeout: float = 30, dead: Callable[[], str] = str) -> AgentChannel:
    channels: list[AgentChannel] = []

    def greet(sock: socket.socket, limit: float) -> None:
        channels.append(AgentChannel("machine", sock))
        try:
            channels[-1].connect(limit)
        except ChannelError:
            channels.pop().close()
            raise

    run.vmm.dial(greet, timeout, dead)
    return channels[0]


def sent(bench: Bench) -> list[str]:
    return [str(request) for request in bench.requests]


def body(bench: Bench, request: str) -> Any:
    (found,) = (each.body for each in bench.requests if str(each) == request)
    return found
