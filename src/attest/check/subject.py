"""A script that is to be checked, and the names that it is given."""

from __future__ import annotations

import dis
import io
import symtable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import CodeType, ModuleType

from attest.script.driver import ALSO_GLOBAL, IMPORTED, Driver
from attest.support.script_names import global_name

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """A script and what there is when it runs.

    Args:
        text: The script.
        filename: Its name in findings.
        machines: The machines' names.
        vlans: The networks' numbers.
        directory: Where modules may lie that it imports; None: it has no file.
    """

    text: str
    filename: str
    machines: Sequence[str]
    vlans: Sequence[int]
    directory: Path | None = None

    @cached_property
    def code(self) -> CodeType:
        """The compiled script.

        Raises:
            SyntaxError: It is no Python.
        """
        return compile(self.text, self.filename, "exec", dont_inherit=True)

    def column(self, line: int, offset: int) -> int:
        """The column, from 1, of what begins after so many bytes of UTF-8 in a line."""
        before = self._lines[line - 1].encode()[:offset]
        return len(before.decode(errors="ignore")) + 1

    @cached_property
    def _lines(self) -> list[str]:
        return io.StringIO(self.text, newline=None).readlines() or [""]

    @cached_property
    def declarations(self) -> Mapping[str, str]:
        """A Python statement for each global name, which tells its type by that of ``_driver``."""
        names = {"driver": "driver = _driver"}
        names |= {name: f"{name} = _driver.{name}" for name in ALSO_GLOBAL}
        names |= {name: _import(name, value) for name, value in IMPORTED.items()}
        vlans = {f"vlan{number}": f"vlan{number} = _driver.vlans[0]" for number in self.vlans}
        machines = [global_name(name) for name in self.machines]
        if len(machines) == 1:
            machines.append("machine")
        return names | {name: f"{name} = _driver.machines[0]" for name in machines} | vlans

    @cached_property
    def prelude(self) -> str:
        """One line of Python that declares the names which the script does not make its own."""
        own = self._own_names()
        given = [text for name, text in self.declarations.items() if name not in own]
        return "; ".join([_import("_Driver", Driver), "_driver: _Driver", *given])

    def _own_names(self) -> set[str]:
        """The names that the script binds before it reads them: these have types of their own."""
        first: dict[str, str] = {}
        for step in dis.get_instructions(self.code):
            if step.opname in ("LOAD_NAME", "STORE_NAME"):
                first.setdefault(step.argval, step.opname)
        table = symtable.symtable(self.text, self.filename, "exec")
        annotated = {each.get_name() for each in table.get_symbols() if each.is_annotated()}
        return annotated | {name for name, how in first.items() if how == "STORE_NAME"}


def _import(name: str, value: ModuleType | type) -> str:
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}"
    return f"from {value.__module__} import {value.__qualname__} as {name}"
