"""pyflakes over a script."""

from __future__ import annotations

import ast
import re
from typing import Final

from attest.check.finding import Finding
from attest.check.subject import Subject

__all__ = ["lint"]

_FAILS: Final = frozenset({
    "BreakOutsideLoop", "ContinueOutsideLoop", "DefaultExceptNotLast", "DuplicateArgument",
    "ForwardAnnotationSyntaxError", "PercentFormatExpectedMapping",
    "PercentFormatExpectedSequence", "PercentFormatInvalidFormat",
    "PercentFormatMissingArgument", "PercentFormatPositionalCountMismatch",
    "PercentFormatUnsupportedFormatCharacter", "RaiseNotImplemented", "ReturnOutsideFunction",
    "StringDotFormatInvalidFormat", "StringDotFormatMissingArgument",
    "StringDotFormatMixingAutomatic", "TooManyExpressionsInStarredAssignment",
    "TwoStarredExpressions", "UndefinedExport", "UndefinedLocal", "UndefinedName",
    "YieldOutsideFunction",
    "AssertTuple",  # it never fails, so what it says is not tested
})  # fmt: skip
"""What fails when the script comes there; all else may be meant."""


def lint(subject: Subject) -> list[Finding]:
    """What pyflakes says of a script, such as imports that are not used."""
    from pyflakes.checker import Checker

    tree = ast.parse(subject.text, subject.filename)
    messages = Checker(tree, subject.filename, builtins=set(subject.declarations)).messages
    return [
        Finding(
            each.lineno,
            subject.column(each.lineno, each.col),
            _code(type(each).__name__),
            each.message % each.message_args,
            severity="error" if type(each).__name__ in _FAILS else "warning",
        )
        for each in messages
    ]


def _code(name: str) -> str:
    """``UnusedImport`` as mypy would call it: ``unused-import``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
