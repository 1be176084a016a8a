"""What a test failed with, and where in its files: the user's own lines only, not the driver's."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attest.errors import AttestError, Terminated
from attest.support.excerpt import excerpt
from attest.support.own_files import is_own

__all__ = ["bounded", "failure_lines", "said", "script_lines"]

_BECAUSE: Final = "This was raised because of:"
_MEANWHILE: Final = "This was raised while the script handled:"

_FRAMES: Final = 20
"""Places in files that are shown of one error; half of them are the first."""

_PARTS: Final = 10
"""Errors of a group that are shown."""

_LINE: Final = 2000
"""Characters of a line that are shown."""

_LINES: Final = 200
"""Lines that are shown of what one error says."""


def failure_lines(error: BaseException, filename: str) -> list[str]:
    """What went wrong, with the user's lines on the way, and what had gone wrong before.

    Args:
        error: What the script raised.
        filename: The script's name in tracebacks.
    """
    return list(_told(error, filename, set()))


def said(error: BaseException) -> list[str]:
    """What an error says, in full, with its notes."""
    if isinstance(error, AttestError | Terminated):
        return "\n".join([str(error), *getattr(error, "__notes__", [])]).splitlines()
    # With its notes, and in full: an OSError names its file.
    return "".join(traceback.format_exception_only(error)).splitlines()


def bounded(lines: list[str]) -> list[str]:
    """Lines of a failure as they are shown: long ones, and the middle of many, are left out.

    A script may put a whole page into its own message.
    """
    lines = [excerpt(line, _LINE) for line in lines]
    if len(lines) <= _LINES:
        return lines
    half = _LINES // 2
    return [*lines[:half], f"[… {len(lines) - 2 * half:,} lines …]", *lines[-half:]]


def _told(error: BaseException, filename: str, seen: set[int]) -> Iterator[str]:
    yield from _told_alone(error, filename, seen)
    # A loop, as a script that calls itself may have as many of them as Python has calls.
    while (before := _before(error, filename)) and id(before[1]) not in seen:
        why, error = before
        yield why
        yield from _told_alone(error, filename, seen)


def _told_alone(error: BaseException, filename: str, seen: set[int]) -> Iterator[str]:
    """The same, without what had gone wrong before."""
    seen.add(id(error))
    yield from script_lines(error, filename)
    yield from said(error)
    for other in getattr(error, "others", ()):
        if id(other) not in seen:
            yield "Also failed, in another thread:"
            yield from _told(other, filename, seen)
    if isinstance(error, BaseExceptionGroup):
        for number, part in enumerate(error.exceptions[:_PARTS], start=1):
            yield f"Part {number} of {len(error.exceptions)}:"
            yield from (f"  {line}" for line in _told(part, filename, seen))


def _before(error: BaseException, filename: str) -> tuple[str, BaseException] | None:
    because = error.__cause__ is not None
    before = error.__cause__ if because or error.__suppress_context__ else error.__context__
    if before is None:
        return None
    if isinstance(error, AttestError) and not script_lines(before, filename):
        return None  # what attest itself has met on the way is in what it says
    return _BECAUSE if because else _MEANWHILE, before


def script_lines(error: BaseException, filename: str) -> list[str]:
    """The lines of the script, and of what it has imported, on the way to ``error``.

    Outermost first, two lines of text for each.
    """
    frames: list[traceback.FrameSummary] = list(traceback.extract_tb(error.__traceback__))
    begin = next((n for n, frame in enumerate(frames) if frame.filename == filename), 0)
    frames = [frame for frame in frames[begin:] if _is_shown(frame, filename)]
    if len(frames) > _FRAMES:
        half = _FRAMES // 2
        left_out = [f"[… {len(frames) - 2 * half:,} calls …]"]
        return [*_places(frames[:half]), *left_out, *_places(frames[-half:])]
    return _places(frames)


def _is_shown(frame: traceback.FrameSummary, filename: str) -> bool:
    if frame.filename == filename:
        return True
    return not frame.filename.startswith("<") and is_own(Path(frame.filename))


def _places(frames: list[traceback.FrameSummary]) -> list[str]:
    lines = []
    for frame in frames:
        lines.append(f"{frame.filename}:{frame.lineno}: in {frame.name}")
        if source := (frame.line or "").strip():
            lines.append(f"    {source}")
    return lines
