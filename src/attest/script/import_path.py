"""Where a script's imports are looked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attest.support.own_files import INSTALLED

__all__ = ["importable"]


@contextmanager
def importable(script: Path | None) -> Iterator[None]:
    """Let what is imported in the ``with`` block lie beside a script, as Python does.

    Python's own modules go first, which attest imports when it needs them; those that are installed
    come after.
    """
    if script is None:
        yield
        return
    place = str(script.absolute().parent)
    installed = (i for i, each in enumerate(sys.path) if Path(each).name in INSTALLED)
    sys.path.insert(next(installed, len(sys.path)), place)
    try:
        yield
    finally:
        with suppress(ValueError):  # the script has done so itself
            sys.path.remove(place)
