"""All checks of a script."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection
from typing import Final

from attest.check.finding import Finding
from attest.check.lint import lint
from attest.check.subject import Subject
from attest.check.type_check import type_check
from attest.errors import HostError
from attest.support.extras import how_to_install

__all__ = ["CHECKS", "check"]

_SAME: Final = {
    "undefined-name": "name-defined", "redefined-while-unused": "no-redef", "assert-tuple": "misc",
}  # fmt: skip
"""What both find: pyflakes' code, and mypy's."""


CHECKS: Final = {"types": "mypy", "names": "pyflakes"}
"""What is checked, and the program that does it."""


def check(subject: Subject, skip: Collection[str] = ()) -> list[Finding]:
    """What is wrong in a script, in the order of its lines.

    Args:
        subject: The script.
        skip: Those of `CHECKS` that are left out; that it is Python is always checked.

    Raises:
        HostError: mypy or pyflakes is not installed, or does not work.
    """
    programs = [program for kind, program in CHECKS.items() if kind not in skip]
    missing = [program for program in programs if not importlib.util.find_spec(program)]
    if missing:
        raise HostError(
            f"to check a script takes {' and '.join(missing)}, not installed here",
            hint=how_to_install("check"),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, which says them when the script is run
        try:
            subject.code  # noqa: B018
        except SyntaxError as error:
            return [Finding(error.lineno or 1, error.offset or 1, "syntax", error.msg)]
        types = [] if "types" in skip else type_check(subject)
        flakes = [] if "names" in skip else lint(subject)
    known = {(each.line, each.column, each.code) for each in types}
    return sorted(
        types
        + [each for each in flakes if (each.line, each.column, _SAME.get(each.code)) not in known]
    )
