"""The keys of a manifest in docs/manifest.md, made of the JSON schema.

Usage: ``PYTHONPATH=src python tools/manifest_page.py`` writes the page anew. What stands between
two comments of it is made, from the schema and from manifest_examples.toml; the rest is written by
hand.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from attest.manifest import Disk, Document, Node, json_schema
from attest.support.durations import DURATION_PATTERN
from attest.support.sizes import SIZE_PATTERN

__all__ = ["EXAMPLES", "PAGE", "SECTIONS", "examples", "page"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "manifest.md"
EXAMPLES: Final = Path(__file__).with_name("manifest_examples.toml")

SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "manifest": Document, "node": Node, "disk": Disk,
}  # fmt: skip
"""The parts of the page that are made, and whose keys each has."""

_TYPES: Final = {
    "integer": "whole number", "number": "number", "string": "text", "boolean": "true or false",
    "array": "list", "object": "table",
}  # fmt: skip

_WRITTEN: Final = {
    SIZE_PATTERN: '`"512M"` or `"1.5G"`', DURATION_PATTERN: '`"90s"` or `"1h30min"`',
}  # fmt: skip

_BOUNDS: Final = {
    "minimum": "from {}", "exclusiveMinimum": "more than {}", "maximum": "up to {}",
}  # fmt: skip


def examples() -> dict[str, dict[str, str]]:
    """A manifest for each key, by section and key."""
    return tomllib.loads(EXAMPLES.read_text(encoding="utf-8"))


def page(text: str) -> str:
    """The page with its made parts anew."""
    for section in SECTIONS:
        begin, end = f"<!-- keys of a {section} -->\n", f"<!-- end of a {section}'s -->\n"
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        made = "\n".join(_keys(section))
        text = f"{before}{begin}\n{made}\n{end}{after}"
    return text


def _keys(section: str) -> Iterator[str]:
    struct = SECTIONS[section]
    properties = json_schema()["$defs"][struct.__name__]["properties"]
    defaults = {field.name: field for field in msgspec.structs.fields(struct)}
    written = examples()[section]
    for key in sorted(properties):
        yield f"### `{key}`\n"
        yield f"{_description(properties[key])}.\n"
        yield " · ".join([_type(properties[key]), *_default(defaults[key])])
        yield f"\n```toml\n{written[key].strip()}\n```\n"


def _description(keys: dict[str, Any]) -> str:
    inner = [each for each in keys.get("anyOf", []) if "description" in each]
    text: str = keys.get("description") or inner[0]["description"]
    marked = re.sub(r"((?:[\w.-]*/)+[\w.-]+|\b\w+_\w+\b|\beth\d)", r"`\1`", text)
    return f"{marked[0].upper()}{marked[1:]}"


def _type(keys: dict[str, Any]) -> str:
    """What may be written, in words."""
    if "anyOf" in keys:
        choices = [each for each in keys["anyOf"] if each.get("type") != "null"]
        return " or ".join(_type(each) for each in choices)
    if "enum" in keys:
        return " or ".join(f"`{json.dumps(each)}`" for each in keys["enum"] if each is not None)
    if "$ref" in keys:
        return "a table"
    if "pattern" in keys:
        return f"a text such as {_WRITTEN[keys['pattern']]}"
    kind = _TYPES[keys["type"]]
    if keys["type"] == "array":
        return f"a list, each {_type(keys['items'])}"
    bounds = [text.format(keys[name]) for name, text in _BOUNDS.items() if name in keys]
    return " ".join([kind if kind == "true or false" else f"a {kind}", *bounds])


def _default(field: msgspec.structs.FieldInfo) -> list[str]:
    """The default, where there is one and its description does not tell it."""
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value in (msgspec.NODEFAULT, None, "", ".") or isinstance(value, msgspec.Struct):
        return []
    if isinstance(value, float):
        value = int(value)
    return [f"default `{json.dumps(value)}`"]


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
