"""What users give to methods, checked: errors name where it was given, and what would be right."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from attest.errors import UsageError

__all__ = ["command_line", "name", "path", "pattern", "port", "text"]


def text(value: object, what: str) -> str:
    """A text, which may be empty.

    Args:
        value: What the user has given.
        what: What errors call it: where it was given, and the parameter's name.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what}: expected a text, found {value!r}")
    return value


def name(value: object, what: str) -> str:
    """A text that something is called by, so it is not empty.

    Raises:
        UsageError: It is none.
    """
    given = text(value, what)
    if not given:
        raise UsageError(f"{what}: expected a text that is not empty")
    return given


def command_line(value: object, what: str) -> str | list[str]:
    """A command: a text for a shell, or a program and its arguments.

    Raises:
        UsageError: It is none.
    """
    if isinstance(value, str):
        return value
    words = list(value) if isinstance(value, Sequence) and not isinstance(value, bytes) else []
    if not words or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{what}: expected a text, or a list of texts, found {value!r}")
    return words


def path(value: object, what: str) -> str:
    """A path: a text, or an object such as `pathlib.Path`.

    Raises:
        UsageError: It is none, is empty, or no file system has such names.
    """
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str):
        raise UsageError(f"{what}: expected a path, found {value!r}")
    if not given or "\0" in given:
        raise UsageError(f"{what}: expected a path, not empty and without NUL, found {value!r}")
    return given


def port(value: object, what: str) -> int:
    """The number of a TCP or UDP port.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65_535:
        raise UsageError(f"{what}: expected 1 to 65535, found {value!r}")
    return value


def pattern(value: str | re.Pattern[str], what: str, flags: int = 0) -> re.Pattern[str]:
    """A regular expression; one that is compiled already keeps its own flags.

    Raises:
        UsageError: It is none; says where it goes wrong.
    """
    if isinstance(value, re.Pattern):
        return value
    try:
        return re.compile(text(value, what), flags)
    except re.error as error:
        raise UsageError(f"{what}: {value!r} is no regular expression: {error}") from None
