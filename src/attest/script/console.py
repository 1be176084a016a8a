"""A Python console for people, with a script's names."""

from __future__ import annotations

import code
import contextlib
import sys
from pathlib import Path
from typing import Any

from attest.errors import AttestError
from attest.support.paths import cache_dir

__all__ = ["open_console"]


def open_console(names: dict[str, Any], greeting: str) -> None:
    """Open a console on the user's terminal and return when it is left.

    It is ptpython where that is installed, with completion and docstrings; else Python's own, which
    completes names, too.

    Args:
        names: The global names, which what is typed may change.
        greeting: What is printed first.
    """
    history = cache_dir() / "console-history"
    history.parent.mkdir(parents=True, exist_ok=True)
    try:
        from ptpython.repl import embed
    except ImportError:
        _open_plain(names, greeting, history)
    else:
        print(greeting, file=sys.stderr)
        embed(names, names, history_filename=str(history))


def _open_plain(names: dict[str, Any], greeting: str, history: Path) -> None:
    import readline
    import rlcompleter

    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")
    with contextlib.suppress(OSError):  # there is none yet
        readline.read_history_file(history)
    try:
        _Plain(names).interact(greeting, "")
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):
            readline.write_history_file(history)


class _Plain(code.InteractiveConsole):
    def showtraceback(self) -> None:
        """Show what went wrong; where in attest is of no interest."""
        error = sys.exc_info()[1]
        if isinstance(error, AttestError):
            self.write(f"{type(error).__name__}: {error}\n")
        else:
            super().showtraceback()
