"""A manifest come alive: its machines and networks, from `start_all` to `close`."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from attest.errors import AttestError, UsageError
from attest.events import EventLog, Kind
from attest.guest.identity import Identity, Interface
from attest.image.recipe import load_recipe
from attest.image.store import Image, ImageStore
from attest.life import MachineContext
from attest.machine import Machine
from attest.manifest import Manifest, Node, load_manifest, parse_manifest
from attest.net.bridge import Attachment, address, make_bridges
from attest.net.cell import Cell
from attest.scratch import Scratch
from attest.vmm import accel
from attest.vmm.base import MachineSpec, Nic, Vmm, VmmExit
from attest.vmm.qemu import Qemu, find_qemu

__all__ = ["Cluster"]

_SEED: Final = 64
"""Bytes of the host's randomness for each machine."""


class Cluster:
    """The machines and networks of one test; a context manager.

    Args:
        manifest: A `Manifest`, a path of one, or its content as a dictionary.
        accelerator: ``"auto"``, ``"kvm"`` or ``"tcg"``.
        out_dir: Where logs and artefacts go; made when missing. Default: a temporary directory
            that goes with the cluster.
        events: Where everything that happens is reported.
        on_fatal: Called when the test cannot go on (a kernel panic, a VMM that died). Default: the
            error is raised by the next call that needs the machine.

    Raises:
        ManifestError: The manifest cannot be used.
        HostError: This host cannot run it.
        ImageBuildError: An image could not be built.
    """

    def __init__(
        self,
        manifest: Manifest | Path | str | dict[str, Any],
        *,
        accelerator: str = "auto",
        out_dir: Path | None = None,
        events: EventLog | None = None,
        on_fatal: Callable[[AttestError], None] | None = None,
    ) -> None:
        if isinstance(manifest, dict):
            manifest = parse_manifest(manifest)
        elif not isinstance(manifest, Manifest):
            manifest = load_manifest(manifest)
        self.manifest = manifest
        self.events = events or EventLog()
        self._on_fatal = on_fatal or (lambda _: None)
        self._numbers = manifest.numbers()
        with ExitStack() as undo:
            self._scratch = Scratch()
            undo.callback(self._scratch.close)
            self.out_dir = out_dir or self._scratch.path / "out"
            self.out_dir.mkdir(parents=True, exist_ok=True)
            for log in self.out_dir.glob("console-*.log"):  # of a run before, into the same place
                log.unlink()
            # Before the images: a host that cannot run the test is to say so in the first second.
            find_qemu()
            self._cell = Cell(self._scratch.path)
            undo.callback(self._cell.close)
            make_bridges(
                self._cell, [each for name in manifest.nodes for each in self._attachments(name)]
            )
            self._images = _images(manifest, self.events)
            self._accelerator = accel.choose(accelerator, next(iter(self._images.values())))
            undo.pop_all()
        self.machines = {name: self._machine(name, node) for name, node in manifest.nodes.items()}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Machine:
        """The machine of that name.

        Raises:
            UsageError: There is none.
        """
        try:
            return self.machines[name]
        except KeyError:
            known = ", ".join(self.machines)
            raise UsageError(f"no machine is called {name!r}; there are: {known}") from None

    def start_all(self) -> None:
        """Start all machines and return; each call waits until its machine is ready."""
        for machine in self.machines.values():
            machine.start()

    def close(self) -> None:
        """End every machine and remove everything that belongs to the cluster."""
        with self.events.span(Kind.ACTION, "end the machines"), ExitStack() as ends:
            # Last first, and each whatever becomes of the others. So the cell goes before the
            # machines: the kernel ends all VMMs in one go, and their machines only have to notice.
            ends.callback(self._scratch.close)
            for machine in self.machines.values():
                machine.expect_end()
                ends.callback(machine.close)
            ends.callback(self._cell.close)

    # Inside

    def _machine(self, name: str, node: Node) -> Machine:
        def boot(
            allow_reboot: bool,
            on_exit: Callable[[VmmExit], None],
            on_event: Callable[[str, dict[str, Any]], None],
        ) -> Vmm:
            directory = self._scratch.path / name
            directory.mkdir(exist_ok=True)
            spec = MachineSpec(
                name=name, image=self._images[name], memory=node.memory, vcpus=node.vcpus,
                machine=node.machine, accelerator=self._accelerator, directory=directory,
                nics=tuple(Nic(each.tap, each.mac) for each in self._attachments(name)),
                allow_reboot=allow_reboot,
            )  # fmt: skip
            return Qemu(spec, enter=self._cell.enter, on_exit=on_exit, on_event=on_event)

        machine_id = uuid.uuid4().hex
        context = MachineContext(
            events=self.events,
            boot=boot,
            identity=lambda: self._identity(name, machine_id),
            nics=len(node.vlans),
            ready_unit=node.ready_unit,
            start_timeout=node.start_timeout,
            out_dir=self.out_dir,
            on_fatal=self._on_fatal,
        )
        return Machine(name, context)

    def _attachments(self, name: str) -> list[Attachment]:
        number = self._numbers[name]
        return [Attachment(vlan, number) for vlan in self.manifest.nodes[name].vlans]

    def _identity(self, name: str, machine_id: str) -> Identity:
        interfaces = tuple(
            Interface(index=index, mac=each.mac, addresses=(each.address,), up=True)
            for index, each in enumerate(self._attachments(name))
        )
        return Identity(
            hostname=name,
            machine_id=machine_id,
            hosts=self._hosts(name),
            interfaces=interfaces,
            seed=os.urandom(_SEED),
            clock_ns=time.time_ns(),
        )

    def _hosts(self, name: str) -> str:
        """Every node by name: its address on a network that both are on, where there is one."""
        own = set(self.manifest.nodes[name].vlans)
        lines = []
        for other, node in sorted(self.manifest.nodes.items()):
            if node.vlans:
                vlan = next((vlan for vlan in node.vlans if vlan in own), node.vlans[0])
                lines.append(f"{address(vlan, self._numbers[other])} {other}\n")
        return "".join(lines)


def _images(manifest: Manifest, events: EventLog) -> dict[str, Image]:
    """Each node's image, built where it is missing."""
    store = ImageStore()
    built: dict[str, Image] = {}
    for node in manifest.nodes.values():
        if node.image not in built:
            recipe = load_recipe(node.image, relative_to=Path(manifest.directory))
            built[node.image] = store.build(
                recipe, progress=lambda text: events.emit(Kind.IMAGE, text)
            )
    return {name: built[node.image] for name, node in manifest.nodes.items()}
