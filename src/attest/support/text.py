"""Text for people: what guests have said, made fit for a terminal, and moments."""

from __future__ import annotations

import re
import time
from typing import Final

__all__ = ["headline", "is_part", "last_lines", "local_time", "plain_text"]

_LINES: Final = 40
_CHARACTERS: Final = 4096
_LEFT_OUT: Final = "[… "

# ECMA-48 control sequences, operating system commands, and other control characters but the tab.
_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def plain_text(text: str) -> str:
    """The text without terminal control sequences: a guest must not steer the user's terminal."""
    return _CONTROL.sub("", text)


def headline(text: str, width: int = 100) -> str:
    """The first line of a text, shortened: commands can be whole scripts."""
    lines = plain_text(text).strip().splitlines() or [""]
    more = len(lines) > 1 or len(lines[0]) > width
    return lines[0][:width] + (" …" if more else "")


def last_lines(text: str) -> list[str]:
    """The end of a text, for an error: the last 40 lines of its last 4 KiB, as plain text.

    Where something is left out, a first line says how much, see `is_part`.
    """
    # Control sequences count for nothing, but a whole text of megabytes need not be searched.
    end = plain_text(text[-4 * _CHARACTERS :]).rstrip("\n")
    lines = end[-_CHARACTERS:].split("\n")[-_LINES:] if end else []
    shown = len("\n".join(lines))
    if len(text) <= 4 * _CHARACTERS and shown >= len(end):
        return lines
    before = text.rstrip("\n").count("\n") - len(lines) + 1
    left_out = f"{before:,} lines" if before else f"{len(text) - shown:,} characters"
    return [f"{_LEFT_OUT}{left_out} before …]", *lines]


def is_part(lines: list[str]) -> bool:
    """Whether `last_lines` has left something out."""
    return bool(lines) and lines[0].startswith(_LEFT_OUT)


def local_time(seconds: float) -> str:
    """A moment in seconds since the epoch, to the minute, by the local clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
