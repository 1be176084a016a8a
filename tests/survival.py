"""What a machine keeps through what can happen to it, as seen in a real guest.

`observe` does it all to one machine, and says of each place in which something can be written
whether that was still there. The table in `docs/machine-state.md` is held to it, on each VMM.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from attest.errors import ChannelError
from attest.machine.machine import Machine

__all__ = ["PLACES", "documented", "example", "observe"]

_DOC = Path(__file__).parents[1] / "docs/machine-state.md"

# Its size tells it from others: not each guest has names for disks, nor each VMM serial numbers.
_DISK: Final = "/dev/$(cd /sys/block; grep -lx 16384 vd*/size | cut -d / -f 1)"


def _file(path: str, *, flushed: bool) -> tuple[str, str]:
    end = f" && sync {path}" if flushed else ""
    # A new file: ext4 writes one out when it is closed that was truncated (auto_da_alloc).
    return f"rm -f {path}; echo $MARK >{path}{end}", f"cat {path}"


PLACES: Final[dict[str, tuple[str, str]]] = {
    "root, flushed": _file("/root/flushed", flushed=True),
    "root, not flushed": _file("/root/unflushed", flushed=False),
    "`/tmp`": _file("/tmp/mark", flushed=True),
    "`/run`": _file("/run/mark", flushed=True),
    "`disks`, flushed": (
        f"echo $MARK | dd of={_DISK} conv=sync,fsync status=none",
        f"head -n 1 {_DISK}",
    ),
    "memory: processes": (
        "setsid sleep $MARK >/dev/null 2>&1 </dev/null &",
        r"cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep -A 1 -x sleep",
    ),
}
"""For each place how ``$MARK`` is written there, and how it is read; the last of them is gone with
the machine's memory."""

_BOOT: Final = "cat /proc/sys/kernel/random/boot_id"
_CLEAR: Final = "killall sleep 2>/dev/null || pkill -x sleep || true"

# What is not flushed stays so until somebody asks.
_NO_WRITEBACK: Final = "sysctl -qw vm.dirty_writeback_centisecs=0; mount -o remount,commit=3600 /"


def observe(machine: Machine) -> dict[str, dict[str, str]]:
    """For each place what becomes of it, by what happens: ``kept``, ``lost`` or ``as saved``.

    Args:
        machine: One whose root lasts, that may reboot, with one disk of 8 MiB.
    """
    events: dict[str, Callable[[], Machine]] = {
        "reboot": lambda: _rebooted(machine),
        "its own reboot": lambda: _rebooted_by_itself(machine),
        "shutdown, start": lambda: _started_again(machine, Machine.shutdown),
        "crash, start": lambda: _started_again(machine, Machine.crash),
        "restore": lambda: _restored(machine),
        "clone": lambda: _cloned(machine),
    }
    seen: dict[str, dict[str, str]] = {place: {} for place in PLACES}
    for number, (event, happen) in enumerate(events.items(), start=1000):
        machine.succeed(_NO_WRITEBACK, "sync")
        _write(machine, str(number))
        after = _read(happen())
        for place, mark in after.items():
            kept = "as saved" if event in ("restore", "clone") else "kept"
            seen[place][event] = {str(number): kept, "": "lost"}[mark]
    return seen


def documented() -> dict[str, dict[str, str]]:
    """What the page says: the same, from its table."""
    lines = [line for line in _DOC.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows if row[0] in PLACES}


def example() -> str:
    """The page's example: Python, with a global ``machine``."""
    (block,) = re.findall(r"```python\n(.*?)```", _DOC.read_text(), re.DOTALL)
    return str(block)


def _write(machine: Machine, mark: str) -> None:
    machine.succeed(_CLEAR)
    for write, _ in PLACES.values():
        machine.succeed(f"MARK={mark}; {write}")


def _read(machine: Machine) -> dict[str, str]:
    found = {}
    for place, (_, read) in PLACES.items():
        _, output = machine.execute(f"{{ {read}; }} 2>/dev/null")
        marks = re.findall(r"\b\d{4}$", output, re.MULTILINE)
        found[place] = "".join(marks)
    return found


def _rebooted(machine: Machine) -> Machine:
    machine.reboot()
    return machine


def _rebooted_by_itself(machine: Machine) -> Machine:
    boot = before = machine.succeed(_BOOT)
    with suppress(ChannelError):
        machine.execute("reboot", check_return=False)
    while boot == before:
        with suppress(ChannelError):  # it reboots at this moment
            boot = machine.succeed(_BOOT)
    return machine


def _started_again(machine: Machine, end: Callable[[Machine], None]) -> Machine:
    end(machine)
    machine.start()
    return machine


def _restored(machine: Machine) -> Machine:
    snapshot = machine.snapshot("then")
    _write(machine, "9999")
    machine.restore(snapshot)
    return machine


def _cloned(machine: Machine) -> Machine:
    snapshot = machine.snapshot("then")
    _write(machine, "9999")
    (clone,) = snapshot.clone()
    return clone
