"""The global names of a script: which machine has which, and which no machine can have."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection
from typing import Final

__all__ = ["ATTEST", "global_name", "taken"]

ATTEST: Final = frozenset({
    "BaseMachine", "Machine", "NspawnMachine", "QemuMachine", "VLan", "cluster", "create_machine",
    "debug", "driver", "dump_machine_ssh", "join_all", "log", "machines", "machines_nspawn",
    "machines_qemu", "os", "polling_condition", "retry", "run_tests", "serial_stdout_off",
    "serial_stdout_on", "start_all", "subtest", "t", "test_script", "vlans", "wait_all",
})  # fmt: skip
"""What each script finds, see `attest.script.driver`."""

_PYTHON: Final = frozenset({
    "all", "any", "bool", "bytes", "dict", "enumerate", "float", "getattr", "int", "isinstance",
    "len", "list", "max", "min", "open", "print", "range", "repr", "reversed", "set", "sorted",
    "str", "sum", "tuple", "type", "zip",
})  # fmt: skip
"""What most scripts call. Of Python's other functions some are good names of machines, such as
``exit`` and ``filter``; who calls those is told that a machine cannot be called."""


def global_name(machine: str) -> str:
    """The global under which a script finds a machine; that of NixOS's driver."""
    return re.sub(r"^[^A-Za-z_]|[^A-Za-z0-9_]", "_", machine)


def taken(machine: str, vlans: Collection[int] = ()) -> str:
    """Why a script could not use a machine of this name, or what it would lack; empty: it can.

    Args:
        machine: The machine's name.
        vlans: The numbers of the networks, which are globals, too.
    """
    name = global_name(machine)
    if keyword.iskeyword(name):
        return f"`{name}` is a word of Python's own, by which a script cannot name a machine"
    if name in ATTEST:
        return f"`{name}` is something else in a script, one of attest's own names"
    if name in _PYTHON:
        return f"a script would lack Python's `{name}`"
    if name in {f"vlan{number}" for number in vlans}:
        return f"`{name}` is a network in a script"
    return ""
