"""The files that a test is made of, found also where some of them are wrong or missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attest.image.described import DESCRIBED_FILES, is_description
from attest.image.recipe import builtin_recipes
from attest.manifest import decode_document, names_script
from attest.support.validation import read_text

__all__ = ["machine_files", "script_file"]


def script_file(manifest: Path) -> Path | None:
    """The file with a manifest's script; None where the manifest has the text, or cannot be read.

    Args:
        manifest: The manifest's file.
    """
    document = _read(manifest)
    script = document.get("script")
    if isinstance(script, str) and names_script(script):
        return _directory(manifest, document) / script
    return None


def machine_files(manifest: Path) -> set[Path]:
    """All files and directories that decide what a test's machines are.

    They are the manifest, the recipes and descriptions that it names, with the files that those
    name, the files that go into machines, images of disks, and start scripts.

    Args:
        manifest: The manifest's file.
    """
    document = _read(manifest)
    directory = _directory(manifest, document)
    nodes = document.get("nodes")
    tables = [*(nodes.values() if isinstance(nodes, dict) else ()), document.get("defaults")]
    found = {manifest}
    for node in filter(_is_table, tables):
        found.update(directory / path for path in _texts(node.get("files")))
        found.update(directory / path for path in _texts([node.get("start_command")]))
        disks = node.get("disks")
        for disk in filter(_is_table, disks if isinstance(disks, list) else ()):
            found.update(directory / path for path in _texts([disk.get("image")]))
        for image in _texts([node.get("image")]):
            if image not in builtin_recipes():
                _add_image(directory / Path(image).expanduser(), found)
    return found


def _add_image(path: Path, found: set[Path]) -> None:
    """Add a recipe, or a description, with the files that it names."""
    if path in found:
        return
    found.add(path)
    document = _read(path)
    if is_description(path.name):
        named = _texts([document.get(key) for key in DESCRIBED_FILES])
    else:
        files = document.get("files")
        entries = list(files.values()) if isinstance(files, dict) else []
        named = _texts([each.get("source") if _is_table(each) else each for each in entries])
        for base in _texts([document.get("base")]):
            if base.endswith(".toml"):
                _add_image(path.parent / Path(base).expanduser(), found)
    found.update(path.parent / Path(each).expanduser() for each in named)


def _directory(manifest: Path, document: dict[str, Any]) -> Path:
    given = document.get("directory")
    return Path(given) if isinstance(given, str) else manifest.parent


def _read(path: Path) -> dict[str, Any]:
    """What is written in a file, as far as it can be read."""
    try:
        document = decode_document(path, read_text(path))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _texts(values: Any) -> Iterator[str]:
    """The texts in a list, or of a table."""
    given = values.values() if isinstance(values, dict) else values or ()
    yield from (each for each in given if isinstance(each, str) and each)
