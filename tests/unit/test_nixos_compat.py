"""The table of NixOS's names: each is there, nothing is missing, and what shows it exists."""

from __future__ import annotations

import re

import pytest

from attest.machine.machine import Machine
from attest.script.driver import ALSO_GLOBAL, IMPORTED
from attest.support.script_names import ATTEST, global_name
from tests.nixos_table import ALIASES, GLOBALS, MACHINE, OWN, ROOT, unstarted_machine


def test_each_global_is_in_the_table() -> None:
    there = {*ALSO_GLOBAL, *IMPORTED, "driver", "machine", "vlan1"}
    assert there - OWN - ALIASES == {
        name for name, row in GLOBALS.items() if row.verdict != "unsupported"
    }


def test_each_method_and_attribute_of_a_machine_is_in_the_table() -> None:
    there = {name for name in dir(unstarted_machine()) if not name.startswith("_")}
    assert there - OWN == set(MACHINE)


def test_what_is_beyond_nixos_is_there() -> None:
    assert {*ALSO_GLOBAL, *dir(Machine)} >= OWN


@pytest.mark.parametrize("name", [*GLOBALS, *MACHINE])
def test_what_shows_it_exists(name: str) -> None:
    row = GLOBALS.get(name) or MACHINE[name]
    assert row.note or row.verdict == "same"
    if row.verdict == "unsupported":
        return
    if row.shown.startswith("scripts/"):
        script = (ROOT / "tests" / row.shown).read_text()
        assert re.search(rf"\b{name}\b", script), row.shown
        return
    tests = [path.read_text() for path in (ROOT / "tests/guest").glob("test_*.py")]
    assert any(f"def {row.shown}(" in text for text in tests), row.shown


def test_the_names_that_no_machine_can_have_are_those_of_scripts() -> None:
    assert {*ALSO_GLOBAL, *IMPORTED, "driver"} == ATTEST


@pytest.mark.parametrize(
    ("machine", "name"), [("9-a", "__a"), ("9a", "_a"), ("web-1", "web_1"), ("a", "a")]
)
def test_a_machine_has_the_name_that_nixos_gives_it(machine: str, name: str) -> None:
    assert global_name(machine) == name
