"""Asserts that say what they compared, as pytest's do.

A script's ``assert`` statements are compiled so that each keeps the values of both sides of its
comparison, or its one value, and tells them when it fails. Each expression is evaluated once, in
the order in which Python does. Where the statement has a message of its own, that comes first.
"""

from __future__ import annotations

import ast
from typing import Any, Final

__all__ = ["EXPLAIN", "explain", "with_values"]

EXPLAIN: Final = "@attest_explain"
"""The global name under which a script finds `explain`; no script can have it by itself."""

_LEFT, _RIGHT, _VALUE = "@attest_left", "@attest_right", "@attest_value"

_LONGEST: Final = 400
"""Characters of a value that are shown."""

_LINES: Final = 40
"""Lines of a difference that are shown."""


def with_values(text: str, filename: str) -> ast.Module:
    """The script's syntax tree, with asserts that say what they compared.

    Raises:
        SyntaxError: It is no Python.
    """
    tree = ast.parse(text, filename)
    _Rewriter().visit(tree)
    return ast.fix_missing_locations(tree)


class _Rewriter(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.stmt | list[ast.stmt]:
        """Keep the values of one comparison, or of a test that is something else."""
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            kept = [(_LEFT, test.left), (_RIGHT, test.comparators[0])]
            left, right = (ast.Name(name, ast.Load()) for name, _ in kept)
            test = ast.Compare(left, test.ops, [right])
        else:
            kept = [(_VALUE, test)]
            test = ast.Name(_VALUE, ast.Load())
        stores: list[ast.stmt] = [
            ast.Assign([ast.Name(name, ast.Store())], value) for name, value in kept
        ]
        values = [ast.Name(name, ast.Load()) for name, _ in kept]
        said = ast.Constant(ast.unparse(node.test))
        message = node.msg or ast.Constant(None)
        explained = ast.Call(ast.Name(EXPLAIN, ast.Load()), [message, said, *values], [])
        new: list[ast.stmt] = [*stores, ast.Assert(test, explained)]
        return [ast.copy_location(each, node) for each in new]


def explain(message: object, test: str, *values: Any) -> str:
    """What a failed assert says.

    Args:
        message: The statement's own message, or None.
        test: What was to hold, as source.
        values: Both sides of the comparison, or the one value.
    """
    lines = [f"assert {test}"] if message is None else [str(message), f"assert {test}"]
    if len(values) == 2 and all(isinstance(each, str) and "\n" in each for each in values):
        return "\n".join([*lines, *_difference(*values)])
    names = ("left", "right") if len(values) == 2 else ("value",)
    return "\n".join([*lines, *(f"  {n}: {_shown(v)}" for n, v in zip(names, values, strict=True))])


def _difference(left: str, right: str) -> list[str]:
    import difflib  # 2 ms, and only for what has failed

    compared = difflib.ndiff(left.splitlines(), right.splitlines())
    found = [line for line in compared if not line.startswith("?")]  # which only point
    more = [f"  … {len(found) - _LINES} more lines"] if len(found) > _LINES else []
    return ["  - left, + right:", *(f"  {line.rstrip()}" for line in found[:_LINES]), *more]


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # of whatever the script has made
        return f"<{type(value).__name__}, whose repr() failed: {error!r}>"
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}… ({len(text)} characters)"
