"""What is kept of a cluster: its machines as they were when its test failed.

    checkpoint.json   the manifest, and each machine
    NAME.saved        a machine that ran: its memory and devices
    N.disk            the files that the machines' disks consist of

Nothing in it needs a file elsewhere but the machines' images, in the image store or where they are
described.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from attest.disk.backing_chain import CollectedDisks, Foreign
from attest.errors import HostError, UsageError, reason_of
from attest.image.described import is_description, load_described
from attest.image.model import Image
from attest.image.store import ImageStore
from attest.manifest import Accelerator, Disk, Manifest
from attest.node.launcher import Launcher
from attest.snapshot.shape import Shape, host_cpu
from attest.support.concurrency import wait_all
from attest.support.run_dirs import past_runs, runs_directory
from attest.vmm.base import Saved, Vmm, saved_in
from attest.vmm.registry import BACKENDS

if TYPE_CHECKING:
    from attest.machine.lifecycle import Lifecycle

__all__ = [
    "Archive",
    "ArchivedMachine",
    "find_archive",
    "remove_archive",
    "is_archived",
    "write_archive",
    "archive_path",
    "read_archive",
    "resume_command",
    "stand_still",
]

_RECORD: Final = "checkpoint.json"


class ArchivedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the cluster.

    Attributes:
        number: Its number in the cluster.
        machine_id: Its own.
        shape: What it needs of a host.
        absence: Why it was not saved; empty for one that was.
        root: The file of what it has written to its root; empty: that is in its memory.
    """

    number: int
    machine_id: str
    shape: Shape
    absence: str
    root: str = ""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an archive's `checkpoint.json`."""

    manifest: Manifest
    machines: dict[str, ArchivedMachine]
    foreign: dict[str, Foreign]


class Archive(msgspec.Struct, frozen=True):
    """The machines of a failed test that were kept on disk.

    Attributes:
        path: The directory.
        manifest: The cluster's, with the clones that the script had made as nodes; its disks begin
            as those that were kept.
        machines: Each machine by name.
    """

    path: Path
    manifest: Manifest
    machines: dict[str, ArchivedMachine]

    @property
    def accelerator(self) -> Accelerator:
        """The accelerator that the machines ran with."""
        with_kvm = any(each.shape.accelerator == "kvm" for each in self.machines.values())
        return "kvm" if with_kvm else "tcg"

    def numbers(self) -> dict[str, int]:
        """The number of each machine, by name: its addresses follow from it."""
        return {name: machine.number for name, machine in self.machines.items()}

    def saved(self) -> dict[str, Saved]:
        """What was saved of each machine that was running, by name."""
        return {
            name: saved_in(_place_of(self.path, name), self._disks(name))
            for name, machine in self.machines.items()
            if not machine.absence
        }

    def images(self) -> dict[str, Image]:
        """Each machine's image.

        Raises:
            UsageError: One is not in the store any more, or is not what was described.
        """
        shapes = {name: machine.shape for name, machine in self.machines.items()}
        found = {
            shape.image: _image(self.manifest.nodes[name].image, shape)
            for name, shape in shapes.items()
        }
        return {name: found[shape.image] for name, shape in shapes.items()}

    def root(self, name: str) -> Path | None:
        """The file of what a machine has written to its root; None: it is in its memory."""
        file = self.machines[name].root
        return self.path / file if file else None

    def _disks(self, name: str) -> tuple[Path, ...]:
        disks = [self.path / disk.image for disk in self.manifest.nodes[name].disks if disk.image]
        root = self.root(name)
        return (*disks, root) if root else tuple(disks)


def archive_path(run: Path) -> Path:
    """The directory in which the machines of a run are kept."""
    return run / "checkpoint"


def is_archived(run: Path) -> bool:
    """Whether the machines of a run were kept, all of them."""
    return (archive_path(run) / _RECORD).is_file()


def remove_archive(run: Path) -> None:
    """Remove what was kept of a run; nothing happens when there is nothing."""
    if is_archived(run):
        shutil.rmtree(archive_path(run))


def resume_command(run: Path) -> str:
    """The command line that brings the machines of a run back."""
    name = run.name if run.parent == runs_directory() else str(run.absolute())
    return f"attest resume {shlex.quote(name)}"


def find_archive(run: str | None) -> Path:
    """Find the machines that were kept of a run.

    Args:
        run: Its directory, its name, or the unique beginning of its name; by default the last run
            of which something was kept.

    Raises:
        UsageError: There is none, or the beginning fits several.
    """
    if run and is_archived(Path(run)):
        return archive_path(Path(run))
    archived = [each for each in past_runs() if is_archived(each)]
    fitting = [each for each in archived if each.name.startswith(run or "")]
    exact = [each for each in fitting if each.name == run]
    if exact or (fitting and not run):
        return archive_path((exact or fitting)[0])
    if len(fitting) == 1:
        return archive_path(fitting[0])
    names = ", ".join(each.name for each in fitting or archived)
    if fitting:
        raise UsageError(f"`{run}` is the beginning of several runs: {names}")
    raise UsageError(
        f"no machines were kept of a run `{run}`" if run else "no machines were kept of any run",
        hint=f"they were of: {names}" if names else "attest run --snapshot-on-failure keeps them",
    )


def read_archive(path: Path) -> Archive:
    """Read what was kept, and check that it can come back on this host.

    Raises:
        UsageError: It cannot be read, or was changed since.
        HostError: It was saved by another VMM, or on another processor.
    """
    path = path.absolute()
    try:
        record = msgspec.json.decode((path / _RECORD).read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path}: cannot read what was kept: {error}") from None
    programs = record.manifest.programs()
    for name, machine in record.machines.items():
        if not machine.absence:
            vmm = record.manifest.nodes[name].vmm or ""
            _check_host(path, machine.shape, vmm, programs.get(vmm, ""))
    for name, foreign in record.foreign.items():
        if Foreign.of(Path(foreign.path), path / name) != foreign:
            raise UsageError(f"{path}: {foreign.path}, which a disk begins as, was changed since")
    manifest = replace(record.manifest, directory=str(path))
    return Archive(path, manifest, record.machines)


def stand_still(
    machines: Sequence[tuple[Launcher, Lifecycle]], held: AbstractContextManager[None]
) -> dict[str, str]:
    """Let machines stand still, as of one moment.

    Args:
        machines: All of a cluster.
        held: While this is entered, no packet goes from one machine to another.

    Returns:
        Why each machine that does not, is not there.
    """
    absent = {machine.name: why for _, machine in machines if (why := machine.absence)}

    def attempt(do: Callable[[Vmm], None]) -> None:
        for _, machine in machines:
            if machine.name not in absent:
                try:
                    do(machine.vmm)
                except Exception as error:  # it ends at this moment
                    absent[machine.name] = machine.absence or reason_of(error)

    with held:
        attempt(lambda vmm: vmm.drain())  # as in `attest.cluster.checkpoint.take`
        attempt(lambda vmm: vmm.pause())
    return absent


def write_archive(
    path: Path,
    manifest: Manifest,
    machines: Sequence[tuple[Launcher, Lifecycle]],
    absent: Mapping[str, str],
    scratch: Path,
) -> None:
    """Save machines that stand still; all end.

    Args:
        path: The directory that is made.
        manifest: The cluster's.
        machines: All of the cluster.
        absent: Why those are not there that are not to be saved.
        scratch: The directory of the cluster's files, which are given up.

    Raises:
        HostError: A disk cannot be saved.
        Exception: A machine cannot be saved.
    """
    with _complete(path) as work:
        present = [each for each in machines if each[1].name not in absent]
        wait_all(
            present, lambda each: each[1].vmm.save_running(_made(_place_of(work, each[1].name)))
        )
        for _, machine in machines:
            machine.close()
        layers = CollectedDisks(
            work, scratch, next((launcher.node.qemu for launcher, _ in machines), None)
        )
        names = layers.bring(
            {
                file: launcher.node.backend.disk_format
                for launcher, _ in machines
                for file in launcher.disks.files
            }
        )
        roots = {
            launcher.name: names[launcher.disks.files[-1]]
            for launcher, _ in machines
            if launcher.node.root_disk and launcher.disks.written
        }
        nodes = {
            launcher.name: replace(
                launcher.node.declared,
                image=launcher.node.image.recipe
                if is_description(launcher.node.declared.image)
                else launcher.node.declared.image,
                disks=_kept_disks(launcher, names),
                files=launcher.files.sources,
                vmm=launcher.node.backend.name,
            )
            for launcher, _ in machines
        }
        kept = {
            launcher.name: ArchivedMachine(
                number=launcher.node.number,
                machine_id=launcher.node.machine_id,
                shape=launcher.shape(),
                absence=absent.get(launcher.name, ""),
                root=roots.get(launcher.name, ""),
            )
            for launcher, _ in machines
        }
        record = _Record(
            manifest=replace(manifest, nodes=nodes), machines=kept, foreign=layers.foreign
        )
        (work / _RECORD).write_bytes(msgspec.json.encode(record))


def _kept_disks(launcher: Launcher, names: Mapping[Path, str]) -> list[Disk]:
    """The declared disks of a machine as those that were kept, or, of one that never ran, as is."""
    declared = launcher.disks.declared
    if not launcher.disks.written:
        return declared
    return [Disk(image=names[file]) for file in launcher.disks.files[: len(declared)]]


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """A new directory that gets its name when all is in it, and goes when something fails."""
    work = path.absolute().with_name(f"{path.name}.part")
    shutil.rmtree(work, ignore_errors=True)  # of a run before, into the same place, that was killed
    work.mkdir(mode=0o700)  # the machines' memories are nobody else's business
    try:
        yield work
        work.rename(path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _place_of(path: Path, machine: str) -> Path:
    return path / f"{machine}.saved"


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _check_host(path: Path, shape: Shape, vmm: str, program: str) -> None:
    identity = BACKENDS[vmm].find(program).identity
    for what, then, now in (("VMM", shape.vmm, identity), ("processor", shape.cpu, host_cpu())):
        if then != now:
            raise HostError(
                f"{path}: these machines come back on the {what} only that they ran on: {then}; "
                f"here it is {now}",
                hint=f"{_variable(vmm)} names the program to use" if what == "VMM" else "",
            )


def _variable(vmm: str) -> str:
    return f"ATTEST_{vmm.upper().replace('-', '_')}"


def _image(reference: str, shape: Shape) -> Image:
    """The image that a machine of this shape runs.

    Args:
        reference: What its node calls it.
        shape: The machine's.
    """
    if is_description(reference):
        image = load_described(reference)
        if image.digest != shape.image:
            raise UsageError(
                f"{reference}: the image {shape.image_name} that these machines run was changed"
            )
        return image
    try:
        return ImageStore().find(shape.image)
    except UsageError:
        message = f"the image {shape.image_name} that these machines run is gone: {shape.image}"
        raise UsageError(message) from None
