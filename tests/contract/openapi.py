"""A VMM's description of its API (Swagger 2 or OpenAPI 3), and whether a request keeps to it.

What descriptions leave open is taken strictly: a field that is not described is a mistake, since a
VMM may ignore it without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

Schema = dict[str, Any]

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
METHODS = ("get", "put", "patch", "post", "delete")


@dataclass(frozen=True)
class Operation:
    """One method of one path: what it takes, and what it answers when all is well.

    Attributes:
        body: The schema of its body, or None when it takes none.
        body_required: It must have a body.
        status: Of its answer.
        answer: The schema of its answer's body, or None when that is empty.
    """

    body: Schema | None
    body_required: bool
    status: int
    answer: Schema | None


class Description:
    """The description in a file."""

    def __init__(self, file: Path) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
        self.document: dict[str, Any] = yaml.load(file.read_text(), loader)
        servers = self.document.get("servers", [{"url": ""}])
        self.base = self.document.get("basePath", urlsplit(servers[0]["url"]).path).rstrip("/")

    def find(self, method: str, target: str) -> Operation | str:
        """The operation that a request is for, or why there is none."""
        if not target.startswith(f"{self.base}/"):
            return f"{target}: paths begin with {self.base}/"
        target = target.removeprefix(self.base)
        for template, operations in self.document["paths"].items():
            if _pattern(template).fullmatch(target):
                if method.lower() in operations:
                    return self._operation(operations[method.lower()])
                known = ", ".join(each.upper() for each in operations if each in METHODS)
                return f"{target} takes {known}, not {method}"
        return f"no path {target} is described"

    def check(self, method: str, target: str, body: bytes) -> list[str]:
        """All that is wrong with a request."""
        operation = self.find(method, target)
        if isinstance(operation, str):
            return [operation]
        if not body:
            return ["a body is required"] if operation.body_required else []
        if operation.body is None:
            return ["a body is not wanted"]
        try:
            value = json.loads(body)
        except ValueError as error:
            return [f"the body is no JSON: {error}"]
        return list(self.mistakes(operation.body, value, ""))

    def mistakes(self, schema: Schema, value: object, at: str) -> Iterator[str]:
        """What is wrong with a value, each with its place."""
        schema = self._resolved(schema)
        name = at or "the body"
        kind = schema.get("type", "object")
        if not isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
            yield f"{name} is {value!r}, not of type {kind}"
        elif "enum" in schema and value not in schema["enum"]:
            yield f"{name} is {value!r}, not one of {schema['enum']}"
        elif isinstance(value, dict):
            yield from self._members(schema, value, at)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.mistakes(schema["items"], item, f"{name}[{index}]")
        elif kind == "integer":
            low, high = _range(schema)
            if not low <= value <= high:  # type: ignore[operator]
                yield f"{name} is {value}, not in {low} to {high}"

    def sample(self, schema: Schema) -> Any:
        """A value that keeps to a schema, as small as possible."""
        schema = self._resolved(schema)
        if "default" in schema:
            return schema["default"]
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type", "object"):
            case "object":
                properties = schema.get("properties", {})
                return {name: self.sample(properties[name]) for name in schema.get("required", ())}
            case "integer":
                return schema.get("minimum", 0)
            case kind:
                return TYPES[kind]()

    def _members(self, schema: Schema, value: dict[str, Any], at: str) -> Iterator[str]:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", not properties)
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{at}.{name} is missing" if at else f"{name} is missing"
        for name, member in value.items():
            place = f"{at}.{name}" if at else name
            if name in properties:
                yield from self.mistakes(properties[name], member, place)
            elif isinstance(others, dict):
                yield from self.mistakes(others, member, place)
            elif not others:
                yield f"{place} is not described"

    def _operation(self, operation: dict[str, Any]) -> Operation:
        body, required = self._body(operation)
        status = min(int(status) for status in operation["responses"] if str(status)[0] == "2")
        response = operation["responses"].get(status) or operation["responses"][str(status)]
        return Operation(body, required, status, response.get("schema") or _json(response))

    def _body(self, operation: dict[str, Any]) -> tuple[Schema | None, bool]:
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "body":
                # Where a PUT's body is described, a VMM without one has nothing to do.
                return parameter["schema"], parameter.get("required", True)
        request = operation.get("requestBody", {})
        return _json(request), request.get("required", bool(request))

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            found: Any = self.document
            for name in schema["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            schema = found
        return schema


def _pattern(template: str) -> re.Pattern[str]:
    """What a path matches that has ids in place of the template's names in braces."""
    parts = re.split(r"\{\w+\}", template)
    return re.compile("[A-Za-z0-9_]+".join(map(re.escape, parts)))


def _json(holder: dict[str, Any]) -> Schema | None:
    schema: Schema | None = holder.get("content", {}).get("application/json", {}).get("schema")
    return schema


def _range(schema: Schema) -> tuple[int, int]:
    """The integers that a schema allows; those of its format where it gives no limits."""
    match = re.fullmatch(r"(u?)int(\d+)", schema.get("format", "int64"))
    assert match is not None, schema
    unsigned, bits = bool(match[1]), int(match[2])
    # The descriptions name signed formats for the VMMs' unsigned types.
    low, high = (0 if unsigned else -(1 << (bits - 1))), (1 << bits) - 1
    return schema.get("minimum", low), schema.get("maximum", high)
