"""The modules of a user's own that a script imports."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from attest.support.own_files import is_own

__all__ = ["forget_imported", "imported_files"]


def imported_files(failure: BaseException | None = None) -> set[Path]:
    """The files of the modules that were imported, but for Python's, attest's and installed ones.

    Their paths are as Python has them, which may be relative.

    Args:
        failure: What the script has failed with: the files of an import that failed count, and
            those that a module which was not found could be in.
    """
    found = {file for _, file in _own_modules()}
    if failure is None:
        return found
    frames = traceback.extract_tb(failure.__traceback__)
    named = {Path(frame.filename) for frame in frames}
    if isinstance(failure, SyntaxError) and failure.filename:
        named.add(Path(failure.filename))
    if isinstance(failure, ModuleNotFoundError) and failure.name:
        name = failure.name.replace(".", "/")
        named |= {Path(place, f"{name}.py") for place in sys.path if Path(place or ".").is_dir()}
    return found | {file for file in named if file.suffix == ".py" and is_own(file)}


def forget_imported() -> None:
    """Let the next import of each of these modules read its file again."""
    for name, _ in _own_modules():
        del sys.modules[name]


def _own_modules() -> list[tuple[str, Path]]:
    files = {
        name: Path(file)
        for name, module in list(sys.modules.items())
        if name != "__main__" and (file := getattr(module, "__file__", None))
    }
    return [(name, file) for name, file in files.items() if is_own(file)]
