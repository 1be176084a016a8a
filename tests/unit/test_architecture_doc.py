"""docs/architecture.md names what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
PACKAGE = ROOT / "src/attest"


def rows() -> list[tuple[list[str], str]]:
    """The folders' table: what a row is about, and what it says."""
    table = PAGE.partition("| folder | what is in it |")[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:]]
    return [(re.findall(r"`([^`]+)`", name), text) for name, text in cells]


def test_each_folder_has_its_row() -> None:
    named = {name.rstrip("/") for names, _ in rows() for name in names}
    there = {
        each.name for each in PACKAGE.iterdir() if each.is_dir() and each.name != "__pycache__"
    }
    assert named == there | {"manifest.py", "events.py", "errors.py"}


def test_each_file_that_a_row_names_is_in_its_folder() -> None:
    for names, text in rows():
        for file in re.findall(r"`([a-z_]+\.py)`", text):
            assert (PACKAGE / names[0] / file).is_file(), f"{names[0]}{file}"


def test_each_path_in_the_text_is_there() -> None:
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", PAGE):
        assert (PACKAGE / path).is_file(), path


def test_the_picture_has_the_layers_that_are_held() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    names = {name.strip() for layer in layers for name in layer.split("|")}
    picture = PAGE.partition("```mermaid\nflowchart")[2].partition("```")[0]
    drawn = set(re.findall(r"\b([a-z]+)(?=\[| &|$| -->)", picture, re.M)) | {"display"}
    assert names <= drawn
