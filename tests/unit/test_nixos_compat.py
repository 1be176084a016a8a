"""The table of NixOS's names: each is there, nothing is missing, and what shows it exists."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attest.events import EventLog
from attest.machine.contracts import MachineHost
from attest.machine.machine import Machine
from attest.script.driver import ALSO_GLOBAL, IMPORTED
from attest.support.script_names import ATTEST, global_name

_ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"\| `([^`]+)` \| (same|differs|unsupported) \| (?:`([^`]+)`)? ?\| (.*) \|")
_GLOBALS, _MACHINE = (
    {name.removesuffix(" …"): row for name, *row in _ROW.findall(part)}
    for part in (_ROOT / "docs/nixos-compat.md").read_text().split("## ")[1:3]
)
_OWN = {
    # globals
    "cluster", "wait_all",
    # of a machine
    "absence", "console_lines", "interfaces", "ip", "restore", "run", "snapshot", "spawn", "stage",
}  # fmt: skip
"""What attest has beyond NixOS's driver."""


def test_each_global_is_in_the_table() -> None:
    there = {*ALSO_GLOBAL, *IMPORTED, "driver", "machine", "vlan1"}
    also = {"BaseMachine", "QemuMachine", "NspawnMachine"}
    assert there - _OWN - also == {
        name for name, row in _GLOBALS.items() if row[0] != "unsupported"
    }


def test_each_method_and_attribute_of_a_machine_is_in_the_table() -> None:
    there = {name for name in dir(_machine()) if not name.startswith("_")}
    assert there - _OWN == set(_MACHINE)


def test_what_is_beyond_nixos_is_there() -> None:
    assert {*ALSO_GLOBAL, *dir(Machine)} >= _OWN


def _machine() -> Machine:
    """A machine that is not started: its attributes are there, too, not only its methods."""
    lifecycle: Any = SimpleNamespace(name="m", absence="", booted=False)
    host = MachineHost(Path(), Path(), Path(), lambda *_: None, Path())
    return Machine(lifecycle, host, EventLog(), lambda *_: pytest.fail("not called"))


@pytest.mark.parametrize("name", [*_GLOBALS, *_MACHINE])
def test_what_shows_it_exists(name: str) -> None:
    verdict, shown, note = _GLOBALS.get(name) or _MACHINE[name]
    assert note or verdict == "same"
    if verdict == "unsupported":
        return
    if shown.startswith("scripts/"):
        script = (_ROOT / "tests" / shown).read_text()
        assert re.search(rf"\b{name}\b", script), shown
        return
    tests = [path.read_text() for path in (_ROOT / "tests/guest").glob("test_*.py")]
    assert any(f"def {shown}(" in text for text in tests), shown


def test_the_names_that_no_machine_can_have_are_those_of_scripts() -> None:
    assert {*ALSO_GLOBAL, *IMPORTED, "driver"} == ATTEST


@pytest.mark.parametrize(
    ("machine", "name"), [("9-a", "__a"), ("9a", "_a"), ("web-1", "web_1"), ("a", "a")]
)
def test_a_machine_has_the_name_that_nixos_gives_it(machine: str, name: str) -> None:
    assert global_name(machine) == name
