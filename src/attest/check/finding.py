"""What is wrong in a script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong, or is worth knowing.

    Attributes:
        line: Where it is in the script, from 1.
        column: Where it is in the line, from 1.
        code: What kind it is, such as ``attr-defined``; may be empty.
        message: What is wrong.
        notes: More about it.
        severity: An error fails when the script comes there; a warning is worth a look, and stops
            no run; a note tells what the script asked for.
    """

    line: int
    column: int
    code: str
    message: str
    notes: tuple[str, ...] = ()
    severity: Literal["error", "warning", "note"] = "error"

    def lines(self, filename: str) -> list[str]:
        """What to print, in the format of compilers, so that editors find the place."""
        place = f"{filename}:{self.line}:{self.column}"
        code = f"  [{self.code}]" if self.code and self.severity != "note" else ""
        return [
            f"{place}: {self.severity}: {self.message}{code}",
            *(f"{place}: note: {note}" for note in self.notes),
        ]
