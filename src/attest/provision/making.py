"""Snapshots of machines that are booted, or continued, for that alone.

What is booted for a snapshot of a cluster's cache goes on as one of its clones, see
`attest.provision.template`. So these are snapshots that the user wants in a directory, and those
that begin as another snapshot: of a machine that has booted, which then gets files of the host, or
runs warm steps.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from msgspec.structs import replace

from attest.errors import CommandFailed, HostError, MachineError, reason_of
from attest.events import Event, EventLog, Kind
from attest.guest.identity import Identity
from attest.machine.contracts import InstanceContext
from attest.machine.instance import Instance, Return
from attest.machine.instance_states import Stage
from attest.machine.meeting import Meeting
from attest.node.launcher import Launcher
from attest.provision.preparation import NotSavedError, bring_to, is_full, not_saved
from attest.provision.sources import BootSource
from attest.snapshot.cache import Entry
from attest.snapshot.record import write_record
from attest.snapshot.shape import Shape
from attest.support.cancellation import cancellable
from attest.vmm.base import Nic, Vmm

__all__ = ["SpoiltError", "make", "make_snapshot"]


class SpoiltError(Exception):
    """The snapshot from which another is to be made does not restore; the text says why."""


def make_snapshot(launcher: Launcher, context: InstanceContext, directory: Path) -> Path:
    """Boot a machine of the node's shape, and keep a snapshot of it where the user says.

    Args:
        launcher: One of the nodes of that shape.
        context: What its machine needs.
        directory: For `attest.snapshot.prebuilt.PrebuiltSnapshots`; an absolute path.

    Returns:
        The snapshot's own directory in there.

    Raises:
        HostError: It could not be saved.
        MachineError: The machine did not come up.
        CommandFailed: A warm step failed.
    """
    if unfit := launcher.unfit:
        raise HostError(f"{launcher.name}: no snapshot can be made: {unfit}")
    shape = launcher.shape()
    path = directory / shape.key()
    unfinished = path.with_suffix(".unfinished")  # what remains of it when this is killed
    unfinished.mkdir()
    try:
        make(shape, launcher, context, unfinished)
        write_record(unfinished, shape, moves=True)
        return unfinished.rename(path)
    except BaseException as error:
        shutil.rmtree(unfinished)
        if isinstance(error, NotSavedError | OSError):
            why = reason_of(error)
            raise HostError(f"{launcher.name}: no snapshot could be made: {why}") from error
        raise


def make(
    shape: Shape,
    launcher: Launcher,
    context: InstanceContext,
    into: Path,
    base: Entry | None = None,
) -> None:
    """Bring a machine to a shape, and save it in ``into``.

    Args:
        shape: What it is to be.
        launcher: A node of this shape, or of one that comes after it.
        context: What the node's machine needs.
        into: An empty directory.
        base: The snapshot of an earlier shape, with which it begins; without, it boots.

    Raises:
        SpoiltError: That snapshot does not restore.
        NotSavedError: It could not be saved.
        MachineError: It did not come up.
        CommandFailed: A warm step failed.
    """
    image = launcher.node.image.name
    told = f"prepare {image}" if base else f"boot {image}"
    with (
        context.events.span(Kind.ACTION, f"{told} once, for a snapshot", machine=launcher.name),
        launcher.spare_nics() as nics,
    ):
        _boot_and_save(shape, launcher, context, nics, into, base)


def _boot_and_save(
    shape: Shape,
    launcher: Launcher,
    context: InstanceContext,
    nics: tuple[Nic, ...],
    into: Path,
    base: Entry | None,
) -> None:
    template = replace(
        context,
        events=_progress(context.events, launcher.name),
        start_vmm=lambda _, saved, *told: launcher.start_template(saved, into, nics, *told),
        identity=_anybody if base else Identity,
        ready_unit=launcher.node.warm_until,
        on_fatal=lambda _: None,
        prepare=None,
    )
    back = Return(base.saved, "the machine is prepared", None, Meeting(1)) if base else None
    instance = Instance(launcher.name, template, BootSource(), allow_reboot=False, back=back)
    try:
        with cancellable(instance.kill):
            instance.begin()
            if base:
                _await_return(instance, into)
            channel = instance.ready()
            try:
                before = base.shape if base else None
                bring_to(shape, before, launcher, channel, context.events)
            except CommandFailed as error:
                error.evidence |= instance.console_evidence()
                raise
            _save(instance.vmm, into)
    except MachineError as error:
        explained = instance.explain(error)  # waits for the end of a VMM that is about to end
        if _ran_out_of_disk(instance, into):
            raise NotSavedError("the disk is full") from None
        raise explained from None
    finally:
        instance.kill()


def _anybody() -> Identity:
    """Who a machine is that continues, and is nobody: it knows what time it is."""
    return Identity(seed=os.urandom(64), clock_ns=time.time_ns())


def _await_return(instance: Instance, into: Path) -> None:
    try:
        instance.ready()
    except MachineError as error:
        if _ran_out_of_disk(instance, into):
            raise NotSavedError("the disk is full") from None
        raise SpoiltError(reason_of(error)) from error


def _save(vmm: Vmm, into: Path) -> None:
    try:
        vmm.save(into)
    except Exception as error:
        raise not_saved(error, into) from error


def _ran_out_of_disk(instance: Instance, into: Path) -> bool:
    """Whether the disk is full, or was: a page of a memory file that finds no room is a SIGBUS."""
    if is_full(into):
        return True
    exit = instance.vmm.exit if instance.stage is not Stage.OFF else None
    return exit is not None and exit.status in (-signal.SIGBUS, 128 + signal.SIGBUS)


def _progress(events: EventLog, name: str) -> EventLog:
    """What is told of a machine that is not part of the test: how far it has come."""

    def pass_on(event: Event) -> None:
        if event.kind in (Kind.CONSOLE, Kind.ALARM) or (
            event.kind is Kind.STAGE and event.text != Stage.READY
        ):
            events.emit(event.kind, event.text, machine=name, **event.data)

    quiet = EventLog()
    quiet.subscribe(pass_on)
    return quiet
