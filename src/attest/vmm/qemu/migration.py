"""QEMU's migration stream as a file: how a machine is saved, and how it comes back.

With memory that is shared with a file, the capability ``x-ignore-shared`` leaves it out of the
stream, which then holds device state only: some 100 KiB, written and read in milliseconds.

A stream with the memory has each page at a place of its own in the file, where QEMU can do that
(``mapped-ram``): it is read in large pieces, and pages of zeros are neither written nor touched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attest.errors import reason_of
from attest.vmm.base import SaveError
from attest.vmm.qemu.qmp import Qmp, QMPError

__all__ = ["load", "save"]

_LIMIT: Final = 120.0
"""Seconds for a stream with memory in it on a slow disk; without, it takes milliseconds."""

_FILE_URI: Final = (8, 2)
"""The first QEMU that takes ``file:``; older ones get a descriptor of the file."""

_MAPPED_RAM: Final = (9, 0)


def save(qmp: Qmp, version: tuple[int, ...], state: Path, *, memory: bool) -> None:
    """Stop the machine and write its state to a new file.

    Args:
        qmp: The machine's QMP session.
        version: QEMU's version.
        state: The file to write.
        memory: Write the memory too; without, it must be in a file that the machine shares.

    Raises:
        SaveError: It could not be written.
    """
    state.touch(exist_ok=False)
    try:
        with _errors(), qmp.events("MIGRATION") as events:
            qmp.execute("stop")
            _set_up(qmp, version, memory=memory)
            _open(qmp, version, "migrate", state, os.O_WRONLY)
            _await(qmp, events)
            # Until then `cont` is refused, and no event tells.
            while qmp.execute("query-status")["status"] == "finish-migrate":
                time.sleep(0.001)
    except SaveError:
        state.unlink()
        raise


def load(qmp: Qmp, version: tuple[int, ...], state: Path, *, memory: bool) -> None:
    """Bring back a machine that was started with ``-incoming defer``; it is paused then.

    Args:
        qmp: The new machine's QMP session.
        version: QEMU's version, the same as at `save`.
        state: The file that `save` wrote.
        memory: As it was at `save`.

    Raises:
        SaveError: The state is damaged, or does not fit this machine.
    """
    with _errors(), qmp.events("MIGRATION") as events:
        _set_up(qmp, version, memory=memory)
        # Each clone would announce the address that its NIC had in the snapshot, five times.
        qmp.execute("migrate-set-parameters", announce_rounds=0)
        _open(qmp, version, "migrate-incoming", state, os.O_RDONLY)
        _await(qmp, events)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except QMPError as error:
        raise SaveError(reason_of(error)) from error


def _set_up(qmp: Qmp, version: tuple[int, ...], *, memory: bool) -> None:
    wanted = {"events": True, "x-ignore-shared": not memory}
    if version >= _MAPPED_RAM:
        wanted["mapped-ram"] = memory
    capabilities = [{"capability": name, "state": state} for name, state in wanted.items()]
    qmp.execute("migrate-set-capabilities", capabilities=capabilities)
    if memory:
        qmp.execute("migrate-set-parameters", max_bandwidth=1 << 40)  # the default is a network's


def _open(qmp: Qmp, version: tuple[int, ...], command: str, state: Path, flags: int) -> None:
    if version >= _FILE_URI:
        qmp.execute(command, uri=f"file:{state}")
        return
    file = os.open(state, flags)
    try:
        qmp.send_descriptor(file, "state")
    finally:
        os.close(file)
    qmp.execute(command, uri="fd:state")


def _await(qmp: Qmp, events: Qmp.Events) -> None:
    while True:
        try:
            status = events.next(_LIMIT)["status"]
        except TimeoutError:
            raise SaveError(f"QEMU has not finished in {_LIMIT:g} s") from None
        if status == "completed":
            return
        if status == "failed":
            raise SaveError(_reason(qmp))


def _reason(qmp: Qmp) -> str:
    try:
        return str(qmp.execute("query-migrate").get("error-desc", "QEMU names no reason"))
    except QMPError:
        return "QEMU has ended"
