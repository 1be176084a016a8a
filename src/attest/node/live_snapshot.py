"""Saving machines that run, as of one moment.

A machine that runs has its memory to itself, so a snapshot of it is first one stream of all its
memory and devices, during which it stands still. Then the stream is *baked*, while the machine
goes on: a paused VMM loads it into a memory file, and saves its devices again. So each restore,
which may happen before every test, is a clone that maps the file; only the snapshot, which happens
once, pays for reading the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from attest.errors import AttestError, MachineError, reason_of
from attest.node.launcher import Launcher
from attest.support.concurrency import call_in_thread, wait_all
from attest.vmm.base import Saved, Vmm
from attest.vmm.qemu.nested import RAN_A_GUEST

__all__ = ["require_fit", "save_running"]

_TRIES = 10
"""How often machines are saved at most until none is met while it runs a guest of its own."""


def save_running(
    machines: Sequence[tuple[Launcher, Vmm]], held: AbstractContextManager[None]
) -> list[Future[Saved]]:
    """Save machines as of one moment; they go on.

    Args:
        machines: Those that run.
        held: While this is entered, no packet goes from one machine to another.

    Returns:
        What becomes of each.

    Raises:
        MachineError: One could not be saved, or would not survive it.
    """
    require_fit([launcher for launcher, _ in machines])
    emulated = [launcher for launcher, _ in machines if launcher.node.nested_in_emulation]
    try:
        for _ in range(_TRIES - 1 if emulated else 0):
            saved = _save_once(machines, held)
            if not any(_met_a_guest(each) for each in saved):
                return saved
        return _save_once(machines, held)
    except AttestError:
        raise
    except Exception as error:  # of whichever VMM, or of the disk
        names = ", ".join(launcher.name for launcher, _ in machines)
        raise MachineError(names, f"could not be saved: {reason_of(error)}") from error


def require_fit(launchers: Iterable[Launcher]) -> None:
    """Check that machines would survive what they are saved for.

    Raises:
        MachineError: One would not; says why.
    """
    for launcher in launchers:
        if unfit := launcher.unfit:
            raise MachineError(launcher.name, f"cannot be saved: {unfit}")


def _met_a_guest(saved: Future[Saved]) -> bool:
    """Whether it cannot be brought back, since its processor was running a guest of its own."""
    return RAN_A_GUEST in str(saved.exception())


def _save_once(
    machines: Sequence[tuple[Launcher, Vmm]], held: AbstractContextManager[None]
) -> list[Future[Saved]]:
    places = [launcher.new_directory("snapshot") for launcher, _ in machines]
    with ExitStack() as undo:
        undo.enter_context(held)
        for _, vmm in machines:
            # A reply from its main loop: it has read what had come for it before the network was
            # held.
            vmm.drain()
        for _, vmm in machines:
            undo.callback(vmm.resume)
            vmm.pause()
        frozen = [launcher.disks.freeze(vmm.fork_disks) for launcher, vmm in machines]
        saved = wait_all(
            list(zip(machines, places, strict=True)),
            lambda each: each[0][1].save_running(each[1]),
        )
    # Baked in the background: the machines go on meanwhile.
    return [
        call_in_thread(
            partial(_bake, launcher, replace(each, disks=disks), place), f"bake {launcher.name}"
        )
        for (launcher, _), place, each, disks in zip(machines, places, saved, frozen, strict=True)
    ]


def _bake(launcher: Launcher, stream: Saved, place: Path) -> Saved:
    if stream.memory or launcher.node.declared.hugepages:
        return stream  # it is mapped already, or cannot be
    baked = place / "baked"
    baked.mkdir()
    with launcher.spare_nics() as nics:
        spec = replace(
            launcher.spec(),
            nics=nics,
            saved=stream,
            memory_file=baked / "memory",
            disks=launcher.disks.throw_away(stream.disks, place),
            prefault=False,
            paused=True,
        )
        vmm = launcher.start(spec, lambda _: None, lambda *_: None)
        try:
            saved = vmm.save(baked)
        finally:
            vmm.kill()
            vmm.console.close()
    for file in (stream.state, *spec.disks):
        file.unlink()
    return replace(saved, disks=stream.disks)
