"""What is done in a machine that has booted, before its test: files copied in, warm steps run.

It is done once, in the machine from whose snapshot others start; where there is no snapshot, in
each machine that boots.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from attest.errors import WaitFailed, reason_of
from attest.events import EventLog, Kind
from attest.guest.channel import Channel, Command, WaitFor, WaitKind
from attest.guest.identity import Identity, Interface
from attest.machine.completed import command_failed
from attest.machine.output import Output
from attest.node.launcher import Launcher
from attest.snapshot.shape import Shape

__all__ = ["NotSavedError", "bring_to", "is_full", "not_saved", "prepare", "prepare_boot"]

_SETTLE: Final = 30.0
"""Seconds that a system may take, once it is ready, to finish the jobs that it has begun."""


_NEVER_STARTED: Final = "emergency.target"
"""A unit of each systemd that is not started where a system has come up."""

_UDEV_QUEUE: Final = "/run/udev/queue"
"""It is there while udevd has events to handle: `udevadm settle` looks at it, too."""


_ROOM: Final = 1 << 20
"""Bytes of free disk for the state of a machine's devices: QEMU does not say that they lack."""


class NotSavedError(Exception):
    """The machine was ready, and could not be saved; the text says why."""


def not_saved(error: Exception, into: Path) -> NotSavedError:
    """What that a VMM could not save a machine in a directory means.

    Args:
        error: The VMM's, of whichever it is, or the disk's.
        into: The directory.
    """
    return NotSavedError("the disk is full" if is_full(into) else reason_of(error))


def is_full(directory: Path) -> bool:
    """Whether the disk has too little room for the state of a machine's devices."""
    return shutil.disk_usage(directory).free < _ROOM


def prepare_boot(launcher: Launcher, channel: Channel, events: EventLog) -> None:
    """Do it in a machine that has booted, unless its disks remember that it was done.

    Files are copied in any case where the root, to which they go, is in memory.

    Args:
        launcher: The machine's.
        channel: The connection to its agent.
        events: Where it is reported.

    Raises:
        CommandFailed: A warm step failed.
        MachineError: A file could not be written in the machine.
        ManifestError: A file is not there on this host, or cannot be read.
    """
    is_new = launcher.is_new
    prepare(launcher, channel, events, files=is_new or not launcher.node.root_disk, steps=is_new)
    launcher.is_new = False


def prepare(
    launcher: Launcher,
    channel: Channel,
    events: EventLog,
    *,
    files: bool = True,
    steps: bool = True,
) -> None:
    """Copy the files of a machine's node into it, and run its warm steps.

    Args:
        launcher: A machine's of that node.
        channel: The connection to the machine's agent.
        events: Where it is reported.
        files: Copy the files.
        steps: Run the steps.

    Raises:
        CommandFailed: A step failed.
        MachineError: A file could not be written in the machine.
        ManifestError: A file is not there on this host, or cannot be read.
    """
    node = launcher.node.declared
    if files and node.files:
        with events.span(Kind.COPY, "copy files from the host", machine=launcher.name):
            for copied, left_out in launcher.files.copy_into(channel):
                events.emit(Kind.LOG, copied, machine=launcher.name)
                for warning in left_out:
                    events.emit(Kind.WARNING, warning, machine=launcher.name)
    for step in node.warm_steps if steps else ():
        with events.span(Kind.COMMAND, step, machine=launcher.name) as span:
            output = Output(events, launcher.name, step)
            process = channel.start(Command(step, strict=True), follower=output)
            try:
                done = output.await_end(process, None)
            except BaseException:
                process.abandon()
                raise
            span.data |= {"status": done.status, **output.end(done)}
        if done.status != 0:
            raise command_failed(launcher.name, step, done, "to succeed, as a warm step", {})


def bring_to(
    shape: Shape, before: Shape | None, launcher: Launcher, channel: Channel, events: EventLog
) -> None:
    """Do in a machine what it lacks of a shape, so that it can be saved.

    Args:
        shape: What it is to be.
        before: What it was when it was saved before; None: it has booted.
        launcher: Of a node that is so, or will be.
        channel: The connection to its agent.
        events: Where it is reported.

    Raises:
        NotSavedError: Its files were changed while they were copied: it has them, and is no
            machine of that shape.
        CommandFailed: A step failed.
        MachineError: A file could not be written in the machine.
        ManifestError: A file is not there on this host, or cannot be read.
    """
    copies = bool(shape.files) and not (before and before.files)
    prepare(launcher, channel, events, files=copies, steps=bool(shape.warm_steps))
    if copies and launcher.files.contents() != shape.files:
        raise NotSavedError("its files were changed while they were copied")
    if before is None or shape.warm_steps:  # else nothing was begun in it
        _settle(channel)
    _rehearse(channel, launcher.identity())
    if launcher.node.root_disk:
        _flush(channel)


def _rehearse(channel: Channel, identity: Identity) -> None:
    """Let a guest become somebody once before it is saved, as each of its clones will.

    What the kernel reads of its disk for that, it then has in its memory: under emulation each read
    costs a clone 20 ms. And who has the same name and cards as the first, as the machine of any
    test that has only one, finds them set.

    Args:
        channel: The connection to its agent.
        identity: That of the first of its clones.
    """
    channel.identity(
        Identity(
            hostname=identity.hostname,
            machine_id=uuid.uuid4().hex,
            hosts=None if identity.hosts is None else "",
            interfaces=tuple(
                Interface(each.index, mac=each.mac, up=False) for each in identity.interfaces
            ),
        )
    )


def _flush(channel: Channel) -> None:
    """Let the system write out what it has not: each clone would do that, while it is new."""
    channel.run(Command("sync", timeout=_SETTLE))


def _settle(channel: Channel) -> None:
    """Wait until the system has done what it has begun: every clone would do that again.

    The agent is asked, which knows: under emulation, `systemctl` and `udevadm` would take longer to
    start than what they wait for.
    """
    if channel.welcome.init == "systemd":
        for wanted in (
            WaitFor(WaitKind.UNIT, _NEVER_STARTED, _SETTLE),  # given up when no job is left
            WaitFor(WaitKind.FILE_GONE, _UDEV_QUEUE, _SETTLE),  # of links such as /dev/disk/by-id
        ):
            with suppress(WaitFailed):
                channel.start_wait(wanted).result()
