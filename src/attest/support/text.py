"""Text for people: what guests have said, made fit for a terminal, and moments."""

from __future__ import annotations

import re
import time
from typing import Final

__all__ = ["last_lines", "local_time", "plain_text"]

_LINES: Final = 40
_CHARACTERS: Final = 4096

# ECMA-48 control sequences, operating system commands, and other control characters but the tab.
_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def plain_text(text: str) -> str:
    """The text without terminal control sequences: a guest must not steer the user's terminal."""
    return _CONTROL.sub("", text)


def last_lines(text: str) -> list[str]:
    """The end of a text, for an error: the last 40 lines of its last 4 KiB, as plain text.

    Where something is left out, a first line says so.
    """
    # Control sequences count for nothing, but a whole text of megabytes need not be searched.
    end = plain_text(text[-4 * _CHARACTERS :]).rstrip("\n")
    lines = end[-_CHARACTERS:].split("\n")[-_LINES:] if end else []
    left_out = len(text) > 4 * _CHARACTERS or len("\n".join(lines)) < len(end)
    return ["[…]", *lines] if left_out else lines


def local_time(seconds: float) -> str:
    """A moment in seconds since the epoch, to the minute, by the local clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
