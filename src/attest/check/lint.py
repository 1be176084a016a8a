"""pyflakes over a script."""

from __future__ import annotations

import ast
import re

from attest.check.finding import Finding
from attest.check.subject import Subject

__all__ = ["lint"]


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
        )
        for each in messages
    ]


def _code(name: str) -> str:
    """``UnusedImport`` as mypy would call it: ``unused-import``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
