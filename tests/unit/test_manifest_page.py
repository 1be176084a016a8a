"""docs/manifest.md has each key of a manifest, as it is, with an example that can be loaded."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from manifest_page import PAGE, SECTIONS, examples, page

from attest.manifest import json_schema, load_manifest

_KEYS = {
    section: set(json_schema()["$defs"][struct.__name__]["properties"])
    for section, struct in SECTIONS.items()
}


def test_the_page_is_as_the_schema_is() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "python tools/manifest_page.py writes it anew"


def test_each_key_has_an_example() -> None:
    assert {section: set(written) for section, written in examples().items()} == _KEYS


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the files that the examples name."""
    (tmp_path / "test.py").write_text("start_all()\n")
    for place in ("dist", "pages"):
        (tmp_path / place).mkdir()
    (tmp_path / "dist" / "app.whl").touch()
    for name in ("run-server-vm", "run-router-vm"):
        (tmp_path / name).write_text("#!/bin/sh\n: $QEMU_VDE_SOCKET_1\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, keys in _KEYS.items() for key in sorted(keys)]
)
def test_an_example_can_be_loaded_and_has_the_key(section: str, key: str, directory: Path) -> None:
    text = examples()[section][key]
    (directory / "example.toml").write_text(text)
    load_manifest(directory / "example.toml")
    assert key in set(_tables(section, tomllib.loads(text)))


def _tables(section: str, manifest: dict[str, Any]) -> Iterator[str]:
    """The keys that a manifest has in a section."""
    nodes = manifest["nodes"].values()
    if section == "manifest":
        yield from manifest
    for node in nodes:
        if section == "node":
            yield from node
        for disk in node.get("disks", []) if section == "disk" else []:
            yield from disk
