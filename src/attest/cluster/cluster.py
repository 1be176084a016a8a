"""A manifest come alive: its machines and networks, from `Cluster.open` to `Cluster.close`."""

from __future__ import annotations

import atexit
import os
import shutil
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

from msgspec.structs import replace

from attest.cluster.addressing import free_names, hosts_file, next_number
from attest.cluster.checkpoint import Checkpoint
from attest.cluster.ground import Ground
from attest.cluster.images import images_of
from attest.cluster.options import DEFAULT_OPTIONS, ClusterOptions, ClusterSettings
from attest.cluster.start_scripts import Report, StartScripts, machine_name
from attest.errors import AttestError, MachineError, UsageError, reason_of
from attest.events import EventLog, Kind
from attest.guest.identity import Identity
from attest.host.descriptors import reserve_descriptors
from attest.host.hugepages import check_hugepages
from attest.image.model import Image
from attest.machine.contracts import Ahead, InstanceContext, MachineHost
from attest.machine.interface import interfaces_of
from attest.machine.lifecycle import Lifecycle
from attest.machine.machine import Machine, Snapshot, disown
from attest.machine.meeting import Meeting
from attest.manifest import Manifest, check_names, load_manifest, on_hugepages, parse_manifest
from attest.net.bridge import hold_bridges, join_bridges, remove_taps
from attest.net.vlan import VLan
from attest.node.launcher import Launcher
from attest.node.live_snapshot import require_fit, save_running
from attest.node.resolved import ResolvedNode, resolve
from attest.node.vmm_choice import find_vmm
from attest.provision.preparation import prepare_boot
from attest.provision.sources import (
    ColdSources,
    NodeSource,
    PrebuiltSources,
    SnapshotSources,
    Sources,
)
from attest.provision.warm import WarmSources
from attest.snapshot.cache import SnapshotCache
from attest.snapshot.prebuilt import PrebuiltSnapshots
from attest.support import run_dirs
from attest.support.concurrency import call_in_thread, wait_all
from attest.support.validation import did_you_mean
from attest.vmm.base import Saved
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.tsc import tsc_khz

if TYPE_CHECKING:
    from attest.cluster.archive import Archive

__all__ = ["Cluster"]


class Cluster:
    """The machines and networks of one test; a context manager.

    Entering it makes all that the machines need, and starts none: each starts when `start_all` or
    `Machine.start` says so, or when it is first needed. Leaving it ends all machines and removes
    everything that belonged to them. When the program is killed, all of that goes too.

    Example::

        with attest.Cluster({"nodes": {"web": {"image": "tiny"}}}) as cluster:
            assert cluster["web"].succeed("hostname").strip() == "web"

    Methods can be called from several threads at once.

    Args:
        manifest: A `Manifest`, a path of one, or its content as a dictionary.
        options: How it is to run.
        archive: What was kept of an earlier cluster with this manifest; see `go_back`.
        ground: What it is to stand on when it is first open; default: it makes its own.
        holds_out_dir: The caller has the ``out_dir`` for it alone, see `run_dirs.held`; default: it
            has it so itself, while it is open.
        events: Where everything that happens is reported.
        on_fatal: Called when the test cannot go on (a kernel panic, a VMM that died), in a thread
            of the machine's, which must not wait for it. Default: the error is raised by the next
            call that needs the machine.
        settings: Single `ClusterOptions`, in the place of those in ``options``.

    Attributes:
        manifest: What it was made of.
        options: How it runs.
        events: Where everything that happens is reported.
        machines: All machines by name; empty until the cluster is open.
        out_dir: Where logs and artefacts go.
        vlans: The networks that start scripts may name.

    Raises:
        ManifestError: The manifest cannot be used.
        UsageError: An option is wrong; names what there is.
    """

    out_dir: Path
    vlans: list[VLan]

    def __init__(
        self,
        manifest: Manifest | Path | str | dict[str, Any],
        options: ClusterOptions = DEFAULT_OPTIONS,
        *,
        archive: Archive | None = None,
        ground: Ground | None = None,
        holds_out_dir: bool = False,
        events: EventLog | None = None,
        on_fatal: Callable[[AttestError], None] | None = None,
        **settings: Unpack[ClusterSettings],
    ) -> None:
        self._is_open = False  # first, as a cluster that was not made is collected, too
        self._is_closing = False
        self._has_begun = False
        self._owner = 0
        self.options = replace(options, **settings)
        if isinstance(manifest, dict):
            manifest = parse_manifest(manifest)
        elif not isinstance(manifest, Manifest):
            manifest = load_manifest(manifest)
        self.manifest = on_hugepages(manifest) if self.options.hugepages else manifest
        self.events = events or EventLog()
        self.machines: dict[str, Machine] = {}
        self._archive = archive
        self._given_ground = ground
        self._holds_out_dir = holds_out_dir
        self._on_fatal = on_fatal or (lambda _: None)
        self._programs = {**manifest.programs(), **self.options.programs}
        # Of what follows; it is never held while a machine is waited for.
        self._lock = threading.RLock()
        self._launchers: dict[str, Launcher] = {}
        self._contexts: dict[str, InstanceContext] = {}
        self._lifecycles: dict[str, Lifecycle] = {}
        self._doubts: set[str] = set()
        self._baking: list[Future[Saved]] = []
        self._saving = threading.Lock()  # two that save the same machine would disturb each other
        self._closing = threading.RLock()
        self._logged_failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, Exception):
                self.keep_logs(error)
        finally:
            self.close()

    def __del__(self) -> None:
        if self._is_open:
            self._warn_not_closed()

    def _warn_not_closed(self) -> None:
        warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<cluster of {', '.join(self.manifest.nodes)}>"

    def __getitem__(self, name: str) -> Machine:
        """The machine of that name.

        Raises:
            UsageError: There is none, or the cluster is not open.
        """
        try:
            return self.machines[name]
        except KeyError:
            self._require_open()
            known = ", ".join(self.machines)
            raise UsageError(
                f"no machine is called {name!r}; there are: {known}",
                hint=did_you_mean(name, self.machines),
            ) from None

    def __iter__(self) -> Iterator[str]:
        """The machines' names."""
        return iter(self.machines)

    def __len__(self) -> int:
        return len(self.machines)

    def __contains__(self, name: object) -> bool:
        return name in self.machines

    def open(self) -> Self:
        """Make what the machines need; nothing happens when that is done.

        Entering the cluster does so. If you call it yourself, call `close` when done: without, you
        get a `ResourceWarning`, at the latest when the program ends.

        Returns:
            The cluster.

        Raises:
            ManifestError: The manifest cannot be used.
            UsageError: ``out_dir`` cannot be made, or another run has it.
            HostError: This host cannot run it.
            ImageBuildError: An image could not be built.
        """
        with self._lock:
            self._make_open()
            if not self._has_begun:
                self._remove_old_logs()
                self._has_begun = True
        return self

    def stand_by(self, machines: Mapping[str, bool]) -> None:
        """Make what the machines need, and let some come up ahead of their start.

        `open`, or entering the cluster, begins with it. Until then what an earlier cluster has left
        in ``out_dir`` stays there. Those that come up ahead are off, for whoever asks and for each
        other, until they are started, which then takes a few milliseconds.

        Args:
            machines: The names of those that come up, each with whether its guest may reboot by
                itself. What has a start script, or is no node of the manifest, is left out.

        Raises:
            ManifestError: The manifest cannot be used.
            UsageError: ``out_dir`` cannot be made, or another run has it.
            HostError: This host cannot run it.
            ImageBuildError: An image could not be built.
        """
        with self._lock:
            self._make_open()
        for name, allow_reboot in machines.items():
            if name in self._lifecycles:
                self._lifecycles[name].stand_by(allow_reboot=allow_reboot)

    def await_standby(self) -> None:
        """Wait until those stand by that come up ahead, or cannot, or were started meanwhile."""
        for lifecycle in self._all_lifecycles():
            lifecycle.await_standby()

    def started(self) -> dict[str, bool]:
        """The nodes of the manifest whose machines were started, for `stand_by` of the next run."""
        return {
            name: lifecycle.instance.allow_reboot
            for name, lifecycle in self._lifecycles.items()
            if name in self.manifest.nodes and lifecycle.instance is not None
        }

    def _make_open(self) -> None:
        if self._is_open:
            return
        self._owner = 0
        with ExitStack() as undo:
            self._open(undo)
            self._is_open = True
            self._is_closing = False
            self._has_begun = False
            undo.pop_all()
        _open_clusters.add(self)

    def close(self) -> None:
        """End every machine and remove everything that belongs to the cluster.

        Nothing happens when the cluster is not open. A call that was interrupted can be made again.
        """
        with self._closing:  # who comes second returns when all is gone
            with self._lock:
                if not self._is_open:
                    return
                self._is_closing = True
                lifecycles = self._all_lifecycles()
            with self.events.span(Kind.ACTION, "end the machines"), ExitStack() as ends:
                # Last first, and each whatever becomes of the others. So the cell goes before the
                # machines: the kernel ends all VMMs in one go, and their machines only notice.
                ends.callback(self._out_dir_claim.close)
                ends.callback(self._ground.close)
                ends.callback(self._sources.close)
                ends.callback(self._scripted.close)
                ends.callback(lambda: wait(self._baking))  # they have failed, or are complete
                for lifecycle in lifecycles:
                    lifecycle.want_end()
                    ends.callback(lifecycle.close)
                ends.callback(self._cell.close)
            self._is_open = False
            _open_clusters.discard(self)

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
            if "startCommand" not in options:
                raise UsageError("create_machine: the dictionary has no `startCommand`")
            return self.create_machine(
                str(options["startCommand"]),
                name=options.get("name"),
                keep_vm_state=bool(options.get("keepVmState")),
            )
        name = name or machine_name(start_command)
        with self._lock:
            self._require_open()
            old = self.machines.get(name)
            if old is not None and (old.booted or name in self._launchers):
                raise UsageError(f"create_machine: there is a machine {name!r}")
            check_names({**self.machines, name: None}, source="create_machine")
            reserve_descriptors(len(self.machines) + 1)
            before = self._scripted.nodes.get(name)
            number = before.number if before else self._next_number()
            machine = self._scripted.create(name, number, start_command, keep_vm_state)
            self.machines[name] = machine
        return machine

    def start_all(self) -> None:
        """Start all machines and return; each call waits until its machine is ready."""
        self._require_open()
        for machine in self._all_machines():
            machine.start()

    def checkpoint(self, name: str = "checkpoint") -> Checkpoint:
        """Save all machines that run, as of one moment; they stand still meanwhile, and go on.

        Packets between them are held back until all stand, so that each is in the memory of its
        receiver or in none.

        Raises:
            MachineError: One could not be saved.
        """
        self._require_open()
        running = [machine for machine in self._all_machines() if machine.booted]
        for machine in running:
            self._scripted.refuse_saving(machine)
            machine.connect()
        snapshots: dict[str, Snapshot] = {}
        if running:
            with self.events.span(Kind.ACTION, f"checkpoint {name!r}"):
                held = hold_bridges(self._cell, self._bridges())
                snapshots = self._save(running, name, held)
        never_started = {
            each.name for each in self._all_lifecycles()
            if each.instance is None and each.name in self._launchers
        }  # fmt: skip
        return Checkpoint(name, snapshots, set(self.machines), never_started)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Bring all machines back to a checkpoint; those that were off then are off again.

        As with `Machine.restore`, whatever was under way in them fails.

        Raises:
            MachineError: One did not come back.
        """
        with self.events.span(Kind.ACTION, f"restore {checkpoint.name!r}"):
            saved = {name: each.saved() for name, each in checkpoint.snapshots.items()}
            self.go_back(saved, checkpoint.name)

    def rewind(self, checkpoint: Checkpoint) -> None:
        """Bring the whole cluster back to a checkpoint.

        Those that were off then are off as they were then: those that had not been started will
        start as if they never had been. Clones that were made since are gone.

        Raises:
            MachineError: One did not come back.
        """
        self._require_open()
        wait(self._baking)  # they use files of machines that go
        for name in [name for name in self._launchers if name not in checkpoint.machines]:
            self._remove(name)
        for name in checkpoint.never_started:
            self._lifecycles[name].forget()
        self.restore(checkpoint)

    def _remove(self, name: str) -> None:
        """Remove a clone, as if it had never been made."""
        self._lifecycles[name].close()
        with self._lock:
            launcher = self._launchers.pop(name)
            del self._lifecycles[name], self._contexts[name], self.machines[name]
        remove_taps(self._cell, launcher.taps)
        shutil.rmtree(launcher.directory)

    def go_back(self, saved: Mapping[str, Saved], moment: str) -> None:
        """Bring machines back to what was saved of them; all others are off then.

        Args:
            saved: What was saved at one moment, by the machines' names.
            moment: What errors and logs call it.

        Raises:
            MachineError: One did not come back.
        """
        self._require_open()
        for machine in self._all_machines():
            if machine.name not in saved:
                machine.crash()
        reason = f"the machine was restored to {moment!r}"
        # All end before the first comes back: what one still sends must reach none of them.
        wait_all(saved, lambda name: self._lifecycle(name).leave(reason))
        meeting = Meeting(len(saved))
        try:
            for name, each in saved.items():
                self._lifecycle(name).go_back(each, reason, meeting)
        except BaseException as error:  # those that wait for the rest need not
            meeting.call_off("another machine", reason_of(error))
            raise
        for name in saved:
            self.machines[name].connect()

    def keep_logs(self, failure: BaseException) -> None:
        """Save what the machines have logged, and note its end in a failure of the test.

        Leaving the cluster does it for an error that passes; before that, whoever ends or stops the
        machines. A second time does nothing. It takes 3 s at most, and raises nothing.

        Args:
            failure: What the test has failed with. Each machine that answers gets its journal and
                its kernel's log written into ``out_dir``; the last lines of those that the failure
                is about become notes of it (`BaseException.add_note`).
        """
        if self._logged_failure is failure or not self._is_open:
            return
        self._logged_failure = failure
        from attest.cluster.failure_logs import add_logs

        with suppress(Exception):  # it must not hide the failure
            add_logs(failure, self._all_lifecycles(), self.out_dir, self.events)

    def archive(self, directory: Path) -> None:
        """Save all machines that run, as of one moment, for `attest resume`; all end.

        Args:
            directory: A new directory.

        Raises:
            HostError: A disk cannot be saved.
            MachineError: A machine would not survive it.
            Exception: A machine cannot be saved.
        """
        from attest.cluster.archive import stand_still, write_archive

        self._require_open()
        for machine in self._all_machines():
            self._scripted.refuse_saving(machine)
        launchers = self._all_launchers()
        require_fit(launchers)
        machines = [(each, self._lifecycles[each.name]) for each in launchers]
        with self.events.span(Kind.ACTION, "keep the machines"), self._saving:
            absent = stand_still(machines, hold_bridges(self._cell, self._bridges()))
            wait(self._baking)  # they use files of disks that are to be kept
            try:
                write_archive(directory, self.manifest, machines, absent, self._scratch.path)
            except BaseException:  # who looks at the machines then finds none that stands still
                for launcher, lifecycle in machines:
                    if launcher.name not in absent and lifecycle.booted:
                        with suppress(Exception):
                            lifecycle.vmm.resume()
                raise

    def make_snapshots(self, directory: Path) -> list[Path]:
        """Boot one machine of each shape, off the networks, and save it for other clusters.

        Args:
            directory: A directory that has no snapshots; see `ClusterOptions`.

        Returns:
            The directory of each snapshot in there.

        Raises:
            HostError: One could not be saved.
            MachineError: A machine did not come up.
            CommandFailed: A warm step failed.
        """
        from attest.provision.making import make_snapshot

        self._require_open()
        launchers = {each.look_at_shape(): each for each in self._all_launchers()}
        place = directory.absolute()
        return wait_all(
            launchers.values(), lambda each: make_snapshot(each, self._contexts[each.name], place)
        )

    def clone(self, snapshot: Snapshot, names: Sequence[str] | int = 1) -> list[Machine]:
        """Start new machines from a snapshot.

        Args:
            snapshot: The snapshot.
            names: Their names; or how many, which are then called ``MACHINE-1`` and so on.

        Raises:
            UsageError: A name is taken, or is none; or the cluster has no room for so many.
            MachineError: They could not be told apart from the one that was saved.
        """
        self._require_open()
        names = [names] if isinstance(names, str) else names
        original = snapshot.launcher.node
        if original.declared.own_identity:
            raise MachineError(
                snapshot.machine,
                "clone: its image says who it is, so that each clone would be the same machine",
                hint="without `own_identity` attest tells each who it is",
            )
        label = f"{names} of {snapshot.machine}" if isinstance(names, int) else ", ".join(names)
        saved = snapshot.saved()
        with self.events.span(Kind.ACTION, f"clone {snapshot.name!r}: {label}"):
            with self._lock:
                machines = self._add_clones(original, names, saved)
            new = {machine.name for machine in machines}
            # Those that come up meanwhile find the new names when they ask who they are.
            known = [
                each for each in self._connected()
                if each.name not in new
                and not self._launchers[each.name].node.declared.own_identity
            ]  # fmt: skip
            for machine in machines:
                machine.start()
            for lifecycle in known:
                lifecycle.ready().identity(Identity(hosts=self._hosts(lifecycle.name)))
        return machines

    # Opening

    def _open(self, undo: ExitStack) -> None:
        """Make everything; ``undo`` gets what removes it again, of all that has been made."""
        options, manifest = self.options, self.manifest
        self.machines = {}
        self._launchers, self._contexts, self._lifecycles = {}, {}, {}
        self._baking = []
        numbers = self._archive.numbers() if self._archive else manifest.numbers()
        self._ground, self._given_ground = self._given_ground or Ground(manifest, numbers), None
        undo.callback(self._ground.close)
        # Before the images: a host that cannot run the test is to say so in the first second.
        nodes = manifest.image_nodes()
        program = self._programs.get("qemu", "")
        qemu = call_in_thread(partial(find_qemu, program), "find QEMU") if nodes else None
        call_in_thread(tsc_khz, "measure the clock")  # 2 ms, and each machine's start needs it
        reserve_descriptors(len(manifest.nodes))
        check_hugepages(sum(node.memory for node in nodes.values() if node.hugepages))
        self._ground.ready()
        self._scratch, self._cell = self._ground.scratch, self._ground.cell
        if qemu:
            qemu.result()
        expected = "tcg" if options.accelerator == "tcg" else "kvm"
        for name, node in nodes.items():
            find_vmm(name, node, options.vmm, self._programs, expected)
        self._prepare_out_dir(undo)
        self._report = Report(self.events, self.out_dir, self._on_fatal, self._require_open)
        self._scripted = StartScripts(
            self._cell, self._scratch.path, manifest, options.state_dir, self._report
        )
        undo.callback(self._scripted.close)
        self.vlans = self._scripted.vlans
        images = self._find_images(program)
        self._sources = self._make_sources()
        undo.callback(self._sources.close)
        for name, node in manifest.nodes.items():
            if node.start_command:
                self.machines[name] = self._scripted.add(name, numbers[name], node)
            else:
                self._add(self._launcher(name, numbers[name], images[name]), self._sources)

    def _find_images(self, qemu: str) -> dict[str, Image]:
        """The nodes' images; whether KVM works is tried with the first, while others are built."""
        tried: list[Future[Literal["kvm", "tcg"]]] = []

        def try_kvm(image: Image) -> None:
            if self.options.accelerator == "tcg":
                return
            from attest.host import kvm_probe

            choose = partial(
                kvm_probe.choose, self.options.accelerator, image, find_qemu(qemu),
                tell=lambda line: self.events.emit(Kind.HOST, line),
            )  # fmt: skip
            tried.append(call_in_thread(choose, "try KVM"))

        with ExitStack() as trial:
            trial.callback(lambda: wait(tried))
            if self._archive:
                images = self._archive.images()
                for image in list(images.values())[:1]:
                    try_kvm(image)
            else:
                images = images_of(self.manifest, self.events, try_kvm)
        self._accelerator = tried[0].result() if tried else "tcg"
        return images

    def _prepare_out_dir(self, undo: ExitStack) -> None:
        self.out_dir = self.options.out_dir or self._scratch.path / "out"
        try:
            self.out_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"out_dir: cannot make {self.out_dir}: {error.strerror}") from None
        self._out_dir_claim = undo.enter_context(ExitStack())
        if not self._holds_out_dir:
            self._out_dir_claim.enter_context(run_dirs.held(self.out_dir, alone=True))

    def _remove_old_logs(self) -> None:
        """Remove those of a run before, into the same place, where a user may have files, too."""
        patterns = ["console-*.log"]
        for name in self.manifest.nodes:
            patterns += [f"journal-{name}.log", f"kernel-{name}.log", f"command-{name}-[0-9]*.log"]
        for log in [log for pattern in patterns for log in self.out_dir.glob(pattern)]:
            log.unlink()

    def _make_sources(self) -> Sources:
        if self.options.cold:
            return ColdSources()
        if self.options.snapshots:
            return PrebuiltSources(
                PrebuiltSnapshots(self.options.snapshots.absolute()), self.events
            )
        return WarmSources(SnapshotCache(), self.events, save=self.options.save)

    def _launcher(self, name: str, number: int, image: Image) -> Launcher:
        resolved = resolve(
            name, number, self.manifest.nodes[name], image, accelerator=self._accelerator,
            vmm=self.options.vmm, programs=self._programs,
        )  # fmt: skip
        if self._archive:
            resolved.machine_id = self._archive.machines[name].machine_id
            if resolved.root_disk:
                resolved.root_disk = replace(resolved.root_disk, image=self._archive.root(name))
        return self._launcher_of(resolved)

    def _launcher_of(self, node: ResolvedNode) -> Launcher:
        return Launcher(
            node, cell=self._cell, directory=self._scratch.path / node.name,
            relative_to=Path(self.manifest.directory), hosts=lambda: self._hosts(node.name),
            kept=self._archive.path if self._archive else None,
        )  # fmt: skip

    def _add(self, launcher: Launcher, sources: Sources) -> Machine:
        name, node = launcher.name, launcher.node
        doubt = node.binary.doubt(node.image.kernel_version)
        if doubt and doubt not in self._doubts:
            self._doubts.add(doubt)
            self.events.emit(Kind.WARNING, doubt)
        context = InstanceContext(
            events=self.events,
            vmm=str(node.binary),
            start_vmm=launcher.start_vmm,
            make_channel=launcher.make_channel,
            identity=launcher.identity,
            ready_unit=node.declared.ready_unit,
            start_timeout=node.declared.start_timeout,
            console_log=self._report.console_log(name),
            on_fatal=self._on_fatal,
            require_open=self._require_open,
            reset_ends_vmm=bool(node.backend.capabilities.reset),
            limits=self.options.limits,
            keep_links=launcher.keep_links,
            prepare=lambda channel: prepare_boot(launcher, channel, self.events),
            ahead=Ahead(
                launcher.directory / "console-ahead.log", launcher.set_cables,
                launcher.disks.forget,
            ),
        )  # fmt: skip
        host = MachineHost(
            self.out_dir, launcher.directory, self._scripted.shared_dir, launcher.set_links,
            self.manifest.script_dir(),
            interfaces_of(node.attachments, own_identity=node.declared.own_identity),
        )  # fmt: skip
        lifecycle = Lifecycle(
            name, context, NodeSource(sources, launcher, context),
            allow_reboot=node.declared.allow_reboot,
        )  # fmt: skip
        self._launchers[name] = launcher
        self._contexts[name] = context
        self._lifecycles[name] = lifecycle
        machine = self.machines[name] = Machine(lifecycle, host, self.events, self._snapshot)
        return machine

    # Saving and cloning

    def _snapshot(self, machine: Machine, name: str) -> Snapshot:
        return self._save([machine], name, nullcontext())[machine.name]

    def _save(
        self, machines: list[Machine], name: str, held: AbstractContextManager[None]
    ) -> dict[str, Snapshot]:
        lifecycles = [self._lifecycles[machine.name] for machine in machines]
        running = [(self._launchers[each.name], each.vmm) for each in lifecycles]
        with self._saving:
            futures = save_running(running, held)
            with self._lock:
                self._baking = [*(each for each in self._baking if not each.done()), *futures]
            wait_all(lifecycles, Lifecycle.reach_again)
        return {
            launcher.name: Snapshot(name, launcher, saved, self)
            for (launcher, _), saved in zip(running, futures, strict=True)
        }

    def _add_clones(
        self, original: ResolvedNode, names: Sequence[str] | int, saved: Saved
    ) -> list[Machine]:
        """Make machines for clones, under the lock: their numbers are theirs alone."""
        if isinstance(names, int):
            names = free_names(original.name, names, self.machines)
        number = self._next_number()
        check_names([*self.machines, *names], source="clone")
        reserve_descriptors(len(self.machines) + len(names))
        launchers = [
            self._launcher_of(original.twin(name, number + index))
            for index, name in enumerate(names)
        ]
        join_bridges(self._cell, [each for one in launchers for each in one.node.attachments])
        return [self._add(each, SnapshotSources(saved)) for each in launchers]

    # Who is there

    def _require_open(self) -> None:
        if self._owner:
            raise UsageError(f"the cluster is process {self._owner}'s, and this is a fork of that")
        if not self._is_open or self._is_closing:
            raise UsageError("the cluster is not open", hint="with Cluster(…) as cluster: …")

    def _disown(self) -> None:
        """Leave all to the process that this one was forked from."""
        self._is_open = False
        self._owner = os.getppid()
        self._lock, self._closing = threading.RLock(), threading.RLock()
        self._ground.disown()
        self.events.disown()
        for machine in self.machines.values():
            disown(machine)
        _open_clusters.discard(self)

    def _all_machines(self) -> list[Machine]:
        with self._lock:
            return list(self.machines.values())

    def _all_launchers(self) -> list[Launcher]:
        with self._lock:
            return list(self._launchers.values())

    def _all_lifecycles(self) -> list[Lifecycle]:
        return [self._lifecycle(name) for name in self.machines]

    def _lifecycle(self, name: str) -> Lifecycle:
        return self._scripted.lifecycles.get(name) or self._lifecycles[name]

    def _connected(self) -> list[Lifecycle]:
        with self._lock:
            return [each for each in self._lifecycles.values() if each.connected]

    def _next_number(self) -> int:
        launchers = (each.node.number for each in self._launchers.values())
        scripts = (each.number for each in self._scripted.nodes.values())
        return next_number([*launchers, *scripts])

    def _bridges(self) -> set[int]:
        """The networks of those machines that can be saved."""
        return {vlan for each in self._all_launchers() for vlan in each.node.declared.vlans}

    def _hosts(self, name: str) -> str:
        with self._lock:
            launchers = {
                other: each.node.attachments for other, each in self._launchers.items()
                if other == name or not each.node.declared.own_identity
            }  # fmt: skip
            scripts = {other: each.attachments for other, each in self._scripted.nodes.items()}
        return hosts_file(name, {**launchers, **scripts})


_open_clusters: Final[weakref.WeakSet[Cluster]] = weakref.WeakSet()
"""Those that nobody has closed; one whose machines run is held by their threads until the end."""


def _disown_open_clusters() -> None:
    for cluster in list(_open_clusters):
        cluster._disown()


os.register_at_fork(after_in_child=_disown_open_clusters)


@atexit.register
def _warn_of_open_clusters() -> None:
    for cluster in list(_open_clusters):
        cluster._warn_not_closed()
