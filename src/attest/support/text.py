"""Text for people: what guests have said, made fit for a terminal, and moments."""

from __future__ import annotations

import re
import time
from typing import Final

__all__ = ["local_time", "plain_text"]

# ECMA-48 control sequences, operating system commands, and other control characters but the tab.
_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def plain_text(text: str) -> str:
    """The text without terminal control sequences: a guest must not steer the user's terminal."""
    return _CONTROL.sub("", text)


def local_time(seconds: float) -> str:
    """A moment in seconds since the epoch, to the minute, by the local clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
