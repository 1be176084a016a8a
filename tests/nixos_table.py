"""The table of NixOS's names in ``docs/nixos-compat.md``, and what attest has beyond them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from attest.events import EventLog
from attest.machine.contracts import MachineHost
from attest.machine.machine import Machine

__all__ = ["ALIASES", "GLOBALS", "MACHINE", "OWN", "ROOT", "Row", "unstarted_machine"]

ROOT: Final = Path(__file__).parents[1]

_ROW: Final = re.compile(
    r"\| `([^`]+)` \| (same|differs|unsupported) \| (?:`([^`]+)`)? ?\| (.*) \|"
)


class Row(NamedTuple):
    """What the table says of a name: a verdict, the test that shows it, and a note."""

    verdict: str
    shown: str
    note: str


GLOBALS, MACHINE = (
    {name.removesuffix(" …"): Row(*row) for name, *row in _ROW.findall(part)}
    for part in (ROOT / "docs/nixos-compat.md").read_text().split("## ")[1:3]
)
"""The rows of a script's globals, and of a machine's methods and attributes."""

OWN: Final = {
    # globals
    "cluster", "wait_all",
    # of a machine
    "absence", "console_lines", "interfaces", "ip", "restore", "run", "snapshot", "spawn", "stage",
    "wait_for_listening_port", "wait_until_unit_finishes",
}  # fmt: skip
"""What attest has beyond NixOS's driver."""


ALIASES: Final = {"BaseMachine", "QemuMachine", "NspawnMachine"}
"""Globals that have no row of their own: other names of `Machine`."""


def unstarted_machine() -> Machine:
    """A machine that is not started: its attributes are there, too, not only its methods."""

    def refuse(*_: object) -> Any:
        raise AssertionError("it is not to be saved")

    lifecycle: Any = SimpleNamespace(name="m", absence="", booted=False)
    host = MachineHost(Path(), Path(), Path(), lambda *_: None, Path())
    return Machine(lifecycle, host, EventLog(), refuse)
