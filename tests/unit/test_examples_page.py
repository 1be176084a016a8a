"""The table in examples/README.md is about the examples that there are, and right about each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from attest.manifest import load_manifest
from tests.guest.test_examples import LONG

_EXAMPLES: Final = Path(__file__).parents[2] / "examples"
_ROW: Final = re.compile(
    r"\| \[(\S+)\]\((\S+)\) \| [^|]+ \| (\d+) \| (\d+) \| [0-9.]+ s \| [0-9.]+ s \| `make (\S+)` \|"
)
_ROWS: Final = {name: rest for name, *rest in _ROW.findall((_EXAMPLES / "README.md").read_text())}


def test_each_example_is_in_the_table() -> None:
    assert list(_ROWS) == sorted(path.parent.name for path in _EXAMPLES.glob("*/test.toml"))


@pytest.mark.parametrize("name", _ROWS)
def test_a_row_is_right(name: str) -> None:
    link, machines, lines, target = _ROWS[name]
    manifest = load_manifest(_EXAMPLES / name / "test.toml")
    assert int(machines) == len(manifest.nodes)
    assert int(lines) == len(manifest.script_text()[0].splitlines())
    assert (_EXAMPLES / link).is_file()
    assert target == ("test-long" if name in LONG else "test")
