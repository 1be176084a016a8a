"""How attest's code takes the lock of a condition.

An interrupt from the keyboard is an exception between any two steps of Python code.
`Condition.__enter__` is such code: an exception at its end leaves the lock taken for ever, and all
who wait for it. Taking a lock itself is one step, so a condition is made of a lock that is taken.
A script's time limit spares the conditions that the standard library takes, see `test_script`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import attest

SOURCES = Path(attest.__file__).parent


def taken(source: str) -> Iterator[str]:
    """The conditions that a module's source takes by themselves, or that have no named lock."""
    tree = ast.parse(source)
    conditions = set()
    for node in ast.walk(tree):
        match node:
            case ast.Assign(
                targets=[target],
                value=ast.Call(func=ast.Attribute(attr="Condition"), args=arguments),
            ):
                conditions.add(ast.unparse(target))
                if not arguments:
                    yield ast.unparse(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for item in node.items:
                if (text := ast.unparse(item.context_expr)) in conditions:
                    yield f"with {text}"


@pytest.mark.parametrize(
    "source",
    [
        "self._came = threading.Condition()",
        "self._came = threading.Condition(self._lock)\nwith self._came:\n    pass",
    ],
)
def test_a_condition_that_is_taken_is_seen(source: str) -> None:
    assert len(list(taken(source))) == 1


def test_conditions_are_taken_by_their_locks() -> None:
    found = {
        f"{path.relative_to(SOURCES)}: {each}"
        for path in SOURCES.rglob("*.py")
        for each in taken(path.read_text())
    }
    assert found == set()
