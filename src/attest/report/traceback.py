"""What a test failed with, and where in its script: its own lines only, not the driver's."""

from __future__ import annotations

import traceback

from attest.errors import AttestError

__all__ = ["failure_lines", "script_lines"]

_BECAUSE = "This was raised because of:"
_MEANWHILE = "This was raised while the script handled:"


def failure_lines(error: BaseException, filename: str) -> list[str]:
    """What went wrong, with the script's lines on the way, and what had gone wrong before.

    Args:
        error: What the script raised.
        filename: The script's name in tracebacks.
    """
    lines = script_lines(error, filename) + _said(error)
    seen = {id(error)}
    while (before := _before(error)) and id(before[1]) not in seen:
        why, error = before
        seen.add(id(error))
        lines += [why, *script_lines(error, filename), *_said(error)]
    return lines


def _said(error: BaseException) -> list[str]:
    if isinstance(error, AttestError):
        return [*str(error).splitlines(), *getattr(error, "__notes__", [])]
    # With its notes, and in full: an OSError names its file.
    return "".join(traceback.format_exception_only(error)).splitlines()


def _before(error: BaseException) -> tuple[str, BaseException] | None:
    if isinstance(error, AttestError):  # what it says is all that there is to know
        return None
    if error.__cause__ is not None:
        return _BECAUSE, error.__cause__
    if error.__context__ is not None and not error.__suppress_context__:
        return _MEANWHILE, error.__context__
    return None


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
