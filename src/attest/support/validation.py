"""Mistakes in what users write, in TOML or JSON: each is answered with its place in the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec

from attest.errors import UsageError

__all__ = [
    "check_choice",
    "check_keys",
    "convert",
    "did_you_mean",
    "kind_of",
    "read_text",
    "unreadable",
]

_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""What msgspec calls kinds of values, and what people do."""

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
        meant = did_you_mean(str(key), known) or f"known: {', '.join(known)}"
        raise error(f"{source}: {_join(where, str(key))}: unknown key; {meant}")


def check_choice(value: object, known: Iterable[str], what: str) -> None:
    """Check a name that selects something, where no document is read that has it.

    Args:
        value: The name.
        known: Those that there are.
        what: What it is, for the error.

    Raises:
        UsageError: It is none of them; names those, and the closest.
    """
    known = list(known)
    if value not in known:
        expected = " or ".join(map(json.dumps, known))
        raise UsageError(
            f"{what}: expected {expected}, found {value!r}", hint=did_you_mean(str(value), known)
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question about the closest of known names; empty where none is close."""
    import difflib  # what users have written is mostly right

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{close[0]}`?" if close else ""


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
        raise error(f"{source}: {_explained(caught, raw, struct, where)}") from None


def _explained(
    error: msgspec.ValidationError,
    raw: Mapping[str, Any],
    struct: type[msgspec.Struct],
    where: str,
) -> str:
    """The message of msgspec, with the path in dots, what would be right and what was found."""
    message, _, path = str(error).partition(" - at `$")
    keys = re.findall(r"[A-Za-z_]\w*|\d+", path)
    expected = _expected(message, struct, keys[0] if keys else "")
    text = f"{_join(where, *keys)}: {expected}"
    value: Any = raw
    for key in keys:
        try:
            value = value[int(key)] if key.isdigit() else value[key]
        except (KeyError, IndexError, TypeError):  # a `[...]`: msgspec does not name a table's key
            return text
    return f"{text}, found {json.dumps(value, default=str)}"


def _expected(message: str, struct: type[msgspec.Struct], key: str) -> str:
    """What msgspec says is wrong, in the words of those who write documents."""
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    if choices := _choices(fields.get(key)):
        return f"expected {' or '.join(map(json.dumps, choices))}"
    kinds = re.match(r"Expected `([^`]*)`", message)
    if kinds is None:
        return f"{message[0].lower()}{message[1:]}"
    names = " or ".join(_KINDS.get(kind, kind) for kind in kinds[1].split(" | ") if kind != "null")
    bound = message[kinds.end() :].partition(", got")[0]
    return f"expected {names}{bound}"


def _choices(annotation: Any) -> list[Any]:
    """The values that a type allows by name: those of each `Literal` in it."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for inner in get_args(annotation) for choice in _choices(inner)]


def _join(*parts: str) -> str:
    """A place in a document: those parts that are not empty, with dots between them."""
    return ".".join(part for part in parts if part)


def kind_of(value: Any) -> str:
    """What a decoded value is, in the words of errors."""
    names = {dict: "a table", list: "a list", str: "text", bool: "a boolean", int: "a number"}
    return names.get(type(value), type(value).__name__) if value is not None else "nothing"


def unreadable(error: OSError | UnicodeDecodeError) -> str | None:
    """The reason for which a file could not be read or decoded, for people."""
    if isinstance(error, OSError):
        return error.strerror
    if error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is UTF-16 text, and not UTF-8"
    return "it is not UTF-8 text"


def read_text(path: Path) -> str:
    """The text of a file that a user has written: UTF-8, with a byte order mark or without.

    Raises:
        OSError, UnicodeDecodeError: It cannot be read, or is something else; see `unreadable`.
    """
    return path.read_text(encoding="utf-8-sig")
