"""A manifest come alive: its machines and networks, from `start_all` to `close`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from attest.cluster.archive import Archive, stand_still, write_archive
from attest.cluster.checkpoint import Checkpoint, take
from attest.cluster.start_scripts import Report, ScriptNode, StartScripts, machine_name
from attest.errors import AttestError, MachineError, ManifestError, RecipeError, UsageError
from attest.events import EventLog, Kind
from attest.guest.identity import Identity
from attest.host import kvm_probe as accel
from attest.host.descriptors import reserve_descriptors
from attest.host.hugepages import check_hugepages
from attest.image.described import is_description, load_described
from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.machine.contracts import InstanceContext, MachineHost
from attest.machine.instance_states import DEFAULT_LIMITS, Limits
from attest.machine.lifecycle import Lifecycle
from attest.machine.machine import Machine, Snapshot
from attest.machine.meeting import Meeting
from attest.manifest import (
    Accelerator,
    Manifest,
    Node,
    VmmName,
    check_names,
    load_manifest,
    on_hugepages,
    parse_manifest,
)
from attest.net.bridge import SPARE, hold_bridges, join_bridges, make_bridges
from attest.net.cell import Cell
from attest.node.resolved import ResolvedNode, attachments_of, find_vmm
from attest.provision.sources import (
    ColdSources,
    NodeSource,
    PrebuiltSources,
    SnapshotSources,
    Sources,
)
from attest.provision.warm import WarmSources, make_snapshot
from attest.snapshot.cache import SnapshotCache
from attest.snapshot.prebuilt import PrebuiltSnapshots
from attest.support.concurrency import call_in_thread, wait_all
from attest.support.scratch import Scratch
from attest.support.validation import check_choice, did_you_mean
from attest.vmm.base import Saved
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.registry import check_vmm_names

__all__ = ["Cluster"]


class Cluster:
    """The machines and networks of one test; a context manager.

    Args:
        manifest: A `Manifest`, a path of one, or its content as a dictionary.
        accelerator: ``"auto"``, ``"kvm"`` or ``"tcg"``.
        out_dir: Where logs and artefacts go; made when missing. Default: a temporary directory
            that goes with the cluster.
        cold: Boot each machine, instead of cloning it from a snapshot of a machine of its shape.
        snapshots: A directory that `make_snapshots` has filled, which may be read-only. Machines
            that it has no snapshot for boot; the cache is not used.
        vmm: The VMM of the nodes that name none: ``"qemu"``, ``"firecracker"``,
            ``"cloud-hypervisor"``, or ``"auto"`` for the first of those that is here and can run
            them.
        programs: Paths of VMMs' programs by the VMM's name, before the manifest's and the host's.
            That of ``"qemu"`` also tries KVM and, with the ``qemu-img`` beside it, makes disks.
        hugepages: Take the memory of all machines from the host's reserved huge pages.
        archive: What was kept of an earlier cluster with this manifest; see `go_back`.
        state_dir: Where the start scripts' directories go, which are then kept from one cluster to
            the next; default: among the cluster's temporary files.
        events: Where everything that happens is reported.
        on_fatal: Called when the test cannot go on (a kernel panic, a VMM that died). Default: the
            error is raised by the next call that needs the machine.
        limits: How long each step of a machine's start may take.

    Raises:
        UsageError: There is no such accelerator or VMM.
        ManifestError: The manifest cannot be used.
        HostError: This host cannot run it.
        ImageBuildError: An image could not be built.
    """

    def __init__(
        self,
        manifest: Manifest | Path | str | dict[str, Any],
        *,
        accelerator: Accelerator = "auto",
        cold: bool = False,
        snapshots: Path | None = None,
        vmm: VmmName = "qemu",
        programs: Mapping[str, str] | None = None,
        hugepages: bool = False,
        archive: Archive | None = None,
        state_dir: Path | None = None,
        out_dir: Path | None = None,
        events: EventLog | None = None,
        on_fatal: Callable[[AttestError], None] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if isinstance(manifest, dict):
            manifest = parse_manifest(manifest)
        elif not isinstance(manifest, Manifest):
            manifest = load_manifest(manifest)
        if hugepages:
            manifest = on_hugepages(manifest)
        self.manifest = manifest
        self._vmm = vmm
        self._programs = {**manifest.programs(), **(programs or {})}
        check_vmm_names(vmm, self._programs)
        check_choice(accelerator, get_args(Accelerator), "accelerator")
        self._doubts: set[str] = set()
        self.events = events or EventLog()
        self._limits = limits
        self._on_fatal = on_fatal or (lambda _: None)
        self._resolved: dict[str, ResolvedNode] = {}
        self._contexts: dict[str, InstanceContext] = {}
        self._lifecycles: dict[str, Lifecycle] = {}
        self.machines: dict[str, Machine] = {}
        self._baking: list[Future[Saved]] = []
        with ExitStack() as undo:
            self._scratch = Scratch()
            undo.callback(self._scratch.close)
            # Before the images: a host that cannot run the test is to say so in the first second.
            nodes = manifest.image_nodes()
            program = self._programs.get("qemu", "")
            qemu = call_in_thread(partial(find_qemu, program), "find QEMU") if nodes else None
            reserve_descriptors(len(manifest.nodes))
            check_hugepages(sum(node.memory for node in nodes.values() if node.hugepages))
            self._cell = Cell(self._scratch.path)
            undo.callback(self._cell.close)
            self._scratch.create()
            if qemu:
                qemu.result()
            for name, node in nodes.items():
                find_vmm(name, node, vmm, self._programs, "tcg" if accelerator == "tcg" else "kvm")
            self.out_dir = out_dir or self._scratch.path / "out"
            self.out_dir.mkdir(parents=True, exist_ok=True)
            for log in self.out_dir.glob("console-*.log"):  # of a run before, into the same place
                log.unlink()
            numbers = archive.numbers() if archive else manifest.numbers()
            make_bridges(
                self._cell,
                [
                    each
                    for name, node in nodes.items()
                    for each in attachments_of(node, numbers[name])
                ],
            )
            self._report = Report(self.events, self.out_dir, self._on_fatal)
            self._scripted = StartScripts(
                self._cell, self._scratch.path, manifest, state_dir, self._report
            )
            self.vlans = self._scripted.vlans
            images = archive.images() if archive else _images(manifest, self.events)
            if images:
                image = next(iter(images.values()))
                self._accelerator = accel.choose(accelerator, image, find_qemu(program))
            self._sources = self._origin(cold, snapshots)
            undo.callback(self._sources.close)
            for name, node in manifest.nodes.items():
                if node.start_command:
                    self.machines[name] = self._scripted.add(name, numbers[name], node)
                else:
                    self._add(self._resolve(name, numbers[name], node, images[name]), self._sources)
            if archive:
                for name, resolved in self._resolved.items():
                    resolved.machine_id = archive.machines[name].machine_id
            undo.pop_all()

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
            raise UsageError(
                f"no machine is called {name!r}; there are: {known}",
                hint=did_you_mean(name, self.machines),
            ) from None

    def create_machine(
        self,
        start_command: str | Mapping[str, Any],
        *,
        name: str | None = None,
        keep_vm_state: bool = False,
    ) -> Machine:
        """Make a machine of a start script, as NixOS's ``create_machine`` does.

        Args:
            start_command: A command line for ``sh``, which takes options of QEMU's as arguments; or
                a dictionary with ``startCommand``, ``name`` and ``keepVmState``, as older scripts
                have it.
            name: The machine's name; default: that in ``run-NAME-vm``, else ``machine``. It may be
                that of a machine that is off, whose place the new one takes.
            keep_vm_state: Go on with the files of the last machine of that name.

        Raises:
            UsageError: A machine of that name is running, or the name is none.
        """
        if isinstance(start_command, Mapping):
            options = start_command
            return self.create_machine(
                str(options["startCommand"]),
                name=options.get("name"),
                keep_vm_state=bool(options.get("keepVmState")),
            )
        name = name or machine_name(start_command)
        old = self.machines.get(name)
        if old is not None and (old.booted or name in self._resolved):
            raise UsageError(f"create_machine: there is a machine {name!r}")
        check_names({**self.machines, name: None}, source="create_machine")
        reserve_descriptors(len(self.machines) + 1)
        machine = self._scripted.create(name, self._next_number(), start_command, keep_vm_state)
        self.machines[name] = machine
        return machine

    def start_all(self) -> None:
        """Start all machines and return; each call waits until its machine is ready."""
        for machine in self.machines.values():
            machine.start()

    def checkpoint(self, name: str = "checkpoint") -> Checkpoint:
        """Save all machines that run, as of one moment; they stand still meanwhile, and go on.

        Packets between them are held back until all stand, so that each is in the memory of its
        receiver or in none.

        Raises:
            MachineError: One could not be saved.
        """
        running = [machine for machine in self.machines.values() if machine.booted]
        for machine in running:
            self._scripted.refuse_saving(machine)
            machine.connect()
        with self.events.span(Kind.ACTION, f"checkpoint {name!r}"):
            held = hold_bridges(self._cell, self._vlans())
            return Checkpoint(name, self._take(running, name, held))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Bring all machines back to a checkpoint; those that were off then are off again.

        As with `Machine.restore`, whatever was under way in them fails.

        Raises:
            MachineError: One did not come back.
        """
        with self.events.span(Kind.ACTION, f"restore {checkpoint.name!r}"):
            saved = {name: each.saved() for name, each in checkpoint.snapshots.items()}
            self.go_back(saved, checkpoint.name)

    def go_back(self, saved: Mapping[str, Saved], moment: str) -> None:
        """Bring machines back to what was saved of them; all others are off then.

        Args:
            saved: What was saved at one moment, by the machines' names.
            moment: What errors and logs call it.

        Raises:
            MachineError: One did not come back.
        """
        for name, machine in self.machines.items():
            if name not in saved:
                machine.crash()
        reason = f"the machine was restored to {moment!r}"
        # All end before the first comes back: what one still sends must reach none of them.
        wait_all(saved, lambda name: self._lifecycle(name).leave(reason))
        meeting = Meeting(len(saved))
        for name, each in saved.items():
            self._lifecycle(name).go_back(each, reason, meeting)
        for name in saved:
            self.machines[name].connect()

    def archive(self, directory: Path) -> None:
        """Save all machines that run, as of one moment, for `attest resume`; all end.

        Args:
            directory: A new directory.

        Raises:
            HostError: A disk cannot be saved.
            Exception: A machine cannot be saved.
        """
        for machine in self.machines.values():
            self._scripted.refuse_saving(machine)
        machines = [(resolved, self._lifecycles[name]) for name, resolved in self._resolved.items()]
        with self.events.span(Kind.ACTION, "keep the machines"):
            absent = stand_still(machines, hold_bridges(self._cell, self._vlans()))
            wait(self._baking)  # they use files of disks that are to be kept
            write_archive(directory, self.manifest, machines, absent, self._scratch.path)

    def make_snapshots(self, directory: Path) -> list[Path]:
        """Boot one machine of each shape, off the networks, and save it for other clusters.

        Args:
            directory: A directory that has no snapshots; see ``snapshots``.

        Returns:
            The directory of each snapshot in there.

        Raises:
            HostError: One could not be saved.
            MachineError: A machine did not come up.
            CommandFailed: A warm step failed.
        """
        resolved_nodes = {
            resolved.look_at_shape(): resolved for resolved in self._resolved.values()
        }
        place = directory.absolute()
        return wait_all(
            resolved_nodes.values(),
            lambda resolved: make_snapshot(resolved, self._contexts[resolved.name], place),
        )

    def clone(self, snapshot: Snapshot, names: Sequence[str] | int = 1) -> list[Machine]:
        """Start new machines from a snapshot, with these names, or so many.

        Raises:
            MachineError: They could not be told apart from the one that was saved.
        """
        if isinstance(names, int):
            names = list(itertools.islice(self._free_names(snapshot.machine), names))
        original = snapshot.resolved
        if original.node.own_identity:
            raise MachineError(
                snapshot.machine,
                "clone: its image says who it is, so that each clone would be the same machine",
                hint="without `own_identity` attest tells each who it is",
            )
        number = self._next_number()
        check_names([*self.machines, *names], source="clone")
        reserve_descriptors(len(self.machines) + len(names))
        resolved_nodes = [
            self._resolve(name, number + index, original.node, original.image)
            for index, name in enumerate(names)
        ]
        with self.events.span(Kind.ACTION, f"clone {snapshot.name!r}: {', '.join(names)}"):
            join_bridges(
                self._cell, [each for resolved in resolved_nodes for each in resolved.attachments]
            )
            machines = [
                self._add(resolved, SnapshotSources(snapshot.saved()))
                for resolved in resolved_nodes
            ]
            # Those that come up meanwhile find the new names when they ask who they are.
            known = [
                self.machines[name] for name in self._resolved if self.machines[name].connected
            ]
            for machine in machines:
                machine.start()
            for machine in known:
                hosts = Identity(hosts=self._hosts(machine.name))
                self._lifecycle(machine.name).ready().identity(hosts)
        return machines

    def close(self) -> None:
        """End every machine and remove everything that belongs to the cluster."""
        with self.events.span(Kind.ACTION, "end the machines"), ExitStack() as ends:
            # Last first, and each whatever becomes of the others. So the cell goes before the
            # machines: the kernel ends all VMMs in one go, and their machines only have to notice.
            ends.callback(self._scratch.close)
            ends.callback(self._sources.close)
            ends.callback(self._scripted.close)
            ends.callback(lambda: wait(self._baking))  # they have failed by then, or are complete
            for name in self.machines:
                self._lifecycle(name).want_end()
                ends.callback(self._lifecycle(name).close)
            ends.callback(self._cell.close)

    # Inside

    def _origin(self, cold: bool, snapshots: Path | None) -> Sources:
        if cold:
            return ColdSources()
        if snapshots:
            return PrebuiltSources(PrebuiltSnapshots(snapshots.absolute()), self.events)
        return WarmSources(SnapshotCache(), self.events)

    def _resolve(self, name: str, number: int, node: Node, image: Image) -> ResolvedNode:
        return ResolvedNode(
            name=name, number=number, node=node, image=image, accelerator=self._accelerator,
            vmm=self._vmm, programs=self._programs,
            cell=self._cell, directory=self._scratch.path / name,
            relative_to=Path(self.manifest.directory), hosts=lambda: self._hosts(name),
        )  # fmt: skip

    def _add(self, resolved: ResolvedNode, sources: Sources) -> Machine:
        doubt = resolved.binary.doubt(resolved.image.kernel_version)
        if doubt and doubt not in self._doubts:
            self._doubts.add(doubt)
            self.events.emit(Kind.WARNING, doubt)
        context = InstanceContext(
            events=self.events,
            vmm=str(resolved.binary),
            start_vmm=resolved.start_vmm,
            make_channel=resolved.make_channel,
            identity=resolved.identity,
            ready_unit=resolved.node.ready_unit,
            start_timeout=resolved.node.start_timeout,
            console_log=self._report.console_log(resolved.name),
            on_fatal=self._on_fatal,
            limits=self._limits,
        )
        host = MachineHost(
            self.out_dir, resolved.directory, self._scripted.shared_dir, resolved.set_links
        )
        self._resolved[resolved.name] = resolved
        self._contexts[resolved.name] = context
        lifecycle = Lifecycle(resolved.name, context, NodeSource(sources, resolved, context))
        self._lifecycles[resolved.name] = lifecycle
        machine = self.machines[resolved.name] = Machine(
            lifecycle, host, self.events, self._snapshot
        )
        return machine

    def _lifecycle(self, name: str) -> Lifecycle:
        return self._scripted.lifecycles.get(name) or self._lifecycles[name]

    def _snapshot(self, machine: Machine, name: str) -> Snapshot:
        return self._take([machine], name, nullcontext())[machine.name]

    def _take(
        self, machines: list[Machine], name: str, held: AbstractContextManager[None]
    ) -> dict[str, Snapshot]:
        lifecycles = [self._lifecycles[machine.name] for machine in machines]
        running = [(self._resolved[each.name], each.vmm) for each in lifecycles]
        futures = take(running, held)
        wait_all(lifecycles, Lifecycle.reach_again)
        self._baking = [*(each for each in self._baking if not each.done()), *futures]
        return {
            resolved.name: Snapshot(name, resolved, saved, self)
            for (resolved, _), saved in zip(running, futures, strict=True)
        }

    def _vlans(self) -> set[int]:
        return {vlan for resolved in self._resolved.values() for vlan in resolved.node.vlans}

    def _next_number(self) -> int:
        return 1 + max((resolved.number for resolved in self._all_resolved().values()), default=0)

    def _all_resolved(self) -> dict[str, ResolvedNode | ScriptNode]:
        return {**self._resolved, **self._scripted.resolved_nodes}

    def _free_names(self, stem: str) -> Iterator[str]:
        names = (f"{stem}-{number}" for number in itertools.count(1))
        return (name for name in names if name not in self.machines)

    def _hosts(self, name: str) -> str:
        """Every node by name, as in NixOS tests.

        First its addresses on the networks that both are on, then those on its first one, to which
        there may be a way, too.
        """
        resolved_nodes = self._all_resolved()
        own = {each.vlan for each in resolved_nodes[name].attachments}
        lines = []
        for other, resolved in sorted(resolved_nodes.items()):
            there = [each for each in resolved.attachments if each.vlan != SPARE]
            near = dict.fromkeys([*(each for each in there if each.vlan in own), *there[:1]])
            addresses = (address for each in near for address in each.addresses)
            lines += [f"{address.partition('/')[0]} {other}\n" for address in addresses]
        return "".join(lines)


def _images(manifest: Manifest, events: EventLog) -> dict[str, Image]:
    """Each node's image, built where it is missing.

    Raises:
        ManifestError: A node's image is none, or its recipe or description cannot be used.
    """
    store = ImageStore()
    built: dict[str, Image] = {}
    for name, node in manifest.image_nodes().items():
        if node.image in built:
            continue
        directory = Path(manifest.directory)
        try:
            if is_description(node.image):
                built[node.image] = load_described(node.image, relative_to=directory)
                continue
            recipe = load_recipe(node.image, relative_to=directory)
        except RecipeError as error:
            where = f"{manifest.name}: nodes.{name}.image"
            raise ManifestError(f"{where}: {error.message}", hint=error.hint) from None
        built[node.image] = store.build(recipe, progress=lambda text: events.emit(Kind.IMAGE, text))
    return {name: built[node.image] for name, node in manifest.image_nodes().items()}
