"""The names that Python programs find in `attest`."""

from __future__ import annotations

import subprocess
import sys

import attest
from attest import errors

_NO_ERRORS = {"host_error", "is_success", "Terminated", "message_of", "reason_of"}
"""What `attest.errors` has beside the errors that a user can meet."""


def test_each_name_is_there_and_is_listed() -> None:
    assert sorted([*attest.__all__, "__version__"]) == dir(attest)
    assert {getattr(attest, name).__name__ for name in attest.__all__} == set(attest.__all__)


def test_all_errors_are_public() -> None:
    assert set(errors.__all__) - _NO_ERRORS <= set(attest.__all__)


def test_nothing_is_imported_before_it_is_used() -> None:
    program = (
        "import sys, attest; attest.CommandFailed;"
        "print([name for name in sys.modules if name.startswith('attest.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['attest.errors']\n"
