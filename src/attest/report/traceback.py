"""Where in a script an error came from: its own lines only, not the driver's."""

from __future__ import annotations

import traceback

__all__ = ["script_lines"]


def script_lines(error: BaseException, filename: str) -> list[str]:
    """The script's lines on the way to ``error``, outermost first, two lines of text for each."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename != filename:
            continue
        lines.append(f"{filename}:{frame.lineno}: in {frame.name}")
        if source := (frame.line or "").strip():
            lines.append(f"    {source}")
    return lines
