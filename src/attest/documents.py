"""Mistakes in what users write, in TOML or JSON: each is answered with its place in the file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from attest.errors import UsageError

__all__ = ["check_keys", "convert", "kind_of", "unreadable"]

T = TypeVar("T", bound=msgspec.Struct)


def check_keys(
    raw: Mapping[str, Any],
    struct: type[msgspec.Struct],
    source: str,
    where: str,
    error: type[UsageError],
) -> None:
    """Check that a table has known keys only.

    Args:
        raw: The table.
        struct: What it is to become.
        source: What to call the document; a file name, mostly.
        where: The table's place in it; empty for the document itself.
        error: What is raised.

    Raises:
        UsageError: A key is unknown; names the closest that is known.
    """
    known = struct.__struct_fields__
    for key in raw:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1)
        meant = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
        raise error(f"{source}: {_join(where, str(key))}: unknown key; {meant}")


def convert(
    raw: Mapping[str, Any], struct: type[T], source: str, where: str, error: type[UsageError]
) -> T:
    """Turn a table into a struct.

    Args:
        raw: The table.
        struct: What it is to become.
        source: What to call the document; a file name, mostly.
        where: The table's place in it; empty for the document itself.
        error: What is raised.

    Raises:
        UsageError: A wrong type or value; names its place and what was found.
    """
    try:
        return msgspec.convert(raw, struct)
    except msgspec.ValidationError as caught:
        raise error(f"{source}: {_explained(caught, raw, where)}") from None


def _explained(error: msgspec.ValidationError, raw: Mapping[str, Any], where: str) -> str:
    """The message of msgspec, with the place in dots and the value that was found."""
    message, _, path = str(error).partition(" - at `$")
    keys = re.findall(r"[A-Za-z_]\w*|\d+", path)
    text = f"{_join(where, *keys)}: {message[0].lower()}{message[1:]}"
    value: Any = raw
    for key in keys:
        try:
            value = value[int(key)] if key.isdigit() else value[key]
        except (KeyError, IndexError, TypeError):  # a `[...]`: msgspec does not name a table's key
            return text
    return f"{text}, found {json.dumps(value, default=str)}"


def _join(*parts: str) -> str:
    """A place in a document: those parts that are not empty, with dots between them."""
    return ".".join(part for part in parts if part)


def kind_of(value: Any) -> str:
    """What a decoded value is, in the words of errors."""
    names = {dict: "a table", list: "a list", str: "text", bool: "a boolean", int: "a number"}
    return names.get(type(value), type(value).__name__) if value is not None else "nothing"


def unreadable(error: OSError | UnicodeDecodeError) -> str | None:
    """Why a text could not be read."""
    return error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
