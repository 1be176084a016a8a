"""What a checkout of NixOS's test driver has that attest, or its table, has not.

    python -m tests.nix.driver_names DIRECTORY

The directory is a checkout of nixpkgs, or the sources of its test driver. They are read, not run.
Each difference is a line; the exit code is 1 where there is one.

Compared are the names of a script's globals, and of the methods and attributes of a machine, the
driver and the log; of each method the parameters, their order, and their defaults. A number is the
same as a `datetime.timedelta` of as many seconds, and where attest has more parameters than NixOS,
they must have defaults.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from attest.net.vlan import VLan
from attest.script.driver import ALSO_GLOBAL, IMPORTED, Debug, Driver
from attest.script.log import Log
from tests.nixos_table import ALIASES, GLOBALS, MACHINE, Row, unstarted_machine

__all__ = ["Checkout", "differences", "main"]

_SOURCES: Final = "nixos/lib/test-driver/src/test_driver"

_ITS_OWN: Final = {
    "Machine": {
        "callbacks", "cleanup_statedir", "full_console_log", "keep_machine_state", "keep_vm_state",
        "last_lines", "log_serial", "logger", "monitor", "monitor_path", "process", "qmp_path",
        "release", "run_callbacks", "serial_thread", "shell_path", "ssh_backdoor_command",
        "start_command", "tmp_dir", "vsock_guest", "vsock_host", "wait_for_monitor_prompt",
    },
    "Driver": {
        "check_polling_conditions", "config", "keep_machine_state", "polling_conditions",
        "race_timer", "terminate_test", "test_symbols", "tests",
    },
    "AbstractLogger": {"log_serial", "print_serial_logs", "set_log_level"},
    "DebugAbstract": set(),
    "VLan": {"fd", "logger", "pid", "plug_process", "process", "stop", "tap_name"},
}  # fmt: skip
"""What the driver has for itself, by class."""

_BOTH_NAMES: Final = {"timeout_seconds": "timeout", "seconds_interval": "interval"}
"""Parameters that NixOS's drivers of some years call otherwise. attest takes both names; the
default and the place are those of the other."""

_UNKNOWN: Final = object()
"""A default that is no constant."""


class Checkout:
    """The classes of NixOS's test driver, as its sources have them.

    Args:
        directory: A checkout of nixpkgs, or the sources of its test driver.

    Raises:
        FileNotFoundError: There is no driver in it.
    """

    def __init__(self, directory: Path) -> None:
        below = directory / _SOURCES
        sources = sorted((below if below.is_dir() else directory).rglob("*.py"))
        self._classes: dict[str, ast.ClassDef] = {}
        self.functions: dict[str, ast.FunctionDef] = {}
        for source in sources:
            for node in ast.parse(source.read_text(), str(source)).body:
                if isinstance(node, ast.ClassDef):
                    self._classes[node.name] = node
                if isinstance(node, ast.FunctionDef):
                    self.functions[node.name] = node
        if "Driver" not in self._classes:
            raise FileNotFoundError(f"{directory}: no class Driver in it, nor in its {_SOURCES}")

    @property
    def machine(self) -> str:
        """The class of virtual machines."""
        return "QemuMachine" if "QemuMachine" in self._classes else "Machine"

    @property
    def globals(self) -> set[str]:
        """The names that each script has, but for those of its machines and networks."""
        symbols = _methods(self._classes["Driver"])["test_symbols"]
        return set().union(
            *(
                {keyword.arg for keyword in node.value.keywords if keyword.arg}
                for node in ast.walk(symbols)
                if isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and ast.unparse(node.targets[0]) == "general_symbols"
            )
        )

    def members(self, name: str) -> Iterator[tuple[str, Signature | None]]:
        """The public methods of a class and its bases, with their signatures, and attributes."""
        found: dict[str, Signature | None] = {}
        for each in self._bases(name):
            methods = _methods(each)
            found |= {
                attribute: None
                for attribute in _attributes(each, methods)
                if attribute not in methods
            }
            found |= {
                method: None if _decorated(node, "property") else _signature(node)
                for method, node in methods.items()
            }
        return ((each, signature) for each, signature in found.items() if each[0] != "_")

    def _bases(self, name: str) -> Iterator[ast.ClassDef]:
        """The class after those that it inherits from, as far as they are the driver's own."""
        if (found := self._classes.get(name)) is not None:
            for base in found.bases:
                yield from self._bases(ast.unparse(base))
            yield found


def differences(checkout: Checkout) -> Iterator[str]:
    """What is missing in attest, or is another there; one line each."""
    given = {*ALSO_GLOBAL, *IMPORTED, "driver"}
    yield from (f"{name}: no such global" for name in sorted(checkout.globals - given))
    yield from (
        f"{name}: no row in the table" for name in sorted(checkout.globals - {*GLOBALS, *ALIASES})
    )
    yield from _of_class(checkout, checkout.machine, unstarted_machine(), MACHINE)
    yield from _of_class(checkout, "Driver", _driver(), None)
    yield from _of_class(checkout, "AbstractLogger", Log, None)
    yield from _of_class(checkout, "DebugAbstract", Debug, None)
    yield from _of_class(checkout, "VLan", VLan, None)
    if (retry := checkout.functions.get("retry")) is not None:
        yield from _of_signatures(
            "retry", _signature(retry, first=0), inspect.signature(_driver().retry)
        )


def _of_class(
    checkout: Checkout, theirs: str, ours: Any, table: Mapping[str, Row] | None
) -> Iterator[str]:
    for name, signature in checkout.members(theirs):
        place = f"{theirs}.{name}"
        if name in _ITS_OWN["Machine" if theirs == checkout.machine else theirs]:
            continue
        if table is not None and name not in table:
            yield f"{place}: no row in the table"
        if name not in dir(ours):
            if table is None or name not in table or table[name].verdict != "unsupported":
                yield f"{place}: missing"
        elif signature is not None:
            yield from _of_signatures(place, signature, inspect.signature(getattr(ours, name)))


def _of_signatures(place: str, theirs: Signature, ours: Signature) -> Iterator[str]:
    mine = [each for each in ours.parameters.values() if each.name != "self"]
    if any(each.kind is Parameter.VAR_KEYWORD for each in theirs.parameters.values()):
        return  # it takes whatever comes
    by_name = {each.name: each for each in mine}
    for index, each in enumerate(theirs.parameters.values()):
        found = by_name.get(each.name)
        if found is None:
            yield f"{place}: no parameter `{each.name}`"
            continue
        found = by_name.get(_BOTH_NAMES.get(each.name, ""), found)
        if not _same(found.default, each.default):
            yield f"{place}: `{each.name}` is {_told(found.default)}, there {_told(each.default)}"
        elif each.kind is Parameter.POSITIONAL_OR_KEYWORD and mine.index(found) != index:
            yield f"{place}: `{each.name}` is not parameter {index + 1}"
    for each in mine:
        required = each.default is Parameter.empty and each.kind is not Parameter.VAR_POSITIONAL
        if required and each.name not in theirs.parameters:
            yield f"{place}: `{each.name}` is required, and not there"


def _told(default: object) -> str:
    return "required" if default is Parameter.empty else repr(default)


def _same(ours: object, theirs: object) -> bool:
    if ours is Parameter.empty or theirs is Parameter.empty:
        return ours is theirs
    if theirs is _UNKNOWN:
        return True
    if isinstance(theirs, timedelta):
        theirs = theirs.total_seconds()
    return ours == theirs


def _driver() -> Driver:
    manifest = SimpleNamespace(timeout=None)
    cluster: Any = SimpleNamespace(
        machines={}, vlans=[], events=None, out_dir=Path(), manifest=manifest
    )
    return Driver(cluster, lambda _: None, lambda _: None, lambda _: None)


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}


def _attributes(node: ast.ClassDef, methods: Mapping[str, ast.FunctionDef]) -> set[str]:
    """Those that the class names, and those that its constructor sets."""
    declared = {ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)}
    inside = ast.walk(methods["__init__"]) if "__init__" in methods else []
    targets = [
        target
        for each in inside
        for target in (each.targets if isinstance(each, ast.Assign) else [])
    ]
    return declared | {
        target.attr
        for target in targets
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    }


def _signature(node: ast.FunctionDef, first: int = 1) -> Signature:
    """A function's signature, without its first parameter where that is ``self``."""
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    parameters = [
        Parameter(each.arg, Parameter.POSITIONAL_OR_KEYWORD, default=_constant(default))
        for each, default in zip(plain, defaults, strict=True)
    ][0 if _decorated(node, "staticmethod") else first :]
    if arguments.vararg:
        parameters.append(Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL))
    parameters += [
        Parameter(each.arg, Parameter.KEYWORD_ONLY, default=_constant(default))
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg:
        parameters.append(Parameter(arguments.kwarg.arg, Parameter.VAR_KEYWORD))
    return Signature(parameters, __validate_parameters__=False)


def _decorated(node: ast.FunctionDef, how: str) -> bool:
    """Whether a decorator's name ends so: a ``cached_property`` is a ``property``."""
    return any(ast.unparse(each).endswith(how) for each in node.decorator_list)


def _constant(node: ast.expr | None) -> object:
    """The value of a default: a constant, a product of numbers, or a `timedelta`."""
    match node:
        case None:
            return Parameter.empty
        case ast.BinOp(left, ast.Mult(), right):
            return _constant(left) * _constant(right)  # type: ignore[operator]
        case ast.Call(args=[], keywords=parts) if ast.unparse(node.func).endswith("timedelta"):
            return timedelta(**{str(each.arg): _constant(each.value) for each in parts})  # type: ignore[arg-type]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _UNKNOWN


def main(arguments: list[str]) -> int:
    """Print what is missing.

    Returns:
        The exit code.
    """
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    found = list(differences(Checkout(Path(arguments[0]))))
    print("\n".join(found or ["attest has all of it"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
