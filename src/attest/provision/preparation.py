"""What is done in a machine that has booted, before its test: files copied in, warm steps run.

It is done once, in the machine from whose snapshot others start; where there is no snapshot, in
each machine that boots.
"""

from __future__ import annotations

import uuid
from typing import Final

from attest.events import EventLog, Kind
from attest.guest.channel import Channel, Command
from attest.guest.identity import Identity, Interface
from attest.machine.completed import command_failed
from attest.node.launcher import Launcher

__all__ = ["flush", "prepare", "prepare_boot", "rehearse", "settle"]

_SETTLE: Final = 30.0
"""Seconds that a system may take, once it is ready, to finish the jobs that it has begun."""


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
            done = channel.run(Command(step, strict=True))
            span.data["status"] = done.status
        if done.status != 0:
            raise command_failed(launcher.name, step, done, "to succeed, as a warm step", {})


def rehearse(channel: Channel, identity: Identity) -> None:
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


def flush(channel: Channel) -> None:
    """Let the system write out what it has not: each clone would do that, while it is new."""
    channel.run(Command("sync", timeout=_SETTLE))


def settle(channel: Channel) -> None:
    """Wait until the system has done what it has begun: every clone would do that again."""
    if channel.welcome.init == "systemd":
        channel.run(Command(["systemctl", "is-system-running", "--wait"], timeout=_SETTLE))
        # Links such as /dev/disk/by-id.
        channel.run(Command(["udevadm", "settle"], timeout=_SETTLE))
