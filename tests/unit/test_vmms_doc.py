"""`docs/vmms.md` says of each VMM what its `Capabilities` say, in the same words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from attest.host.capability_table import WORDS
from attest.vmm.registry import BACKENDS

_DOC = Path(__file__).parents[2] / "docs/vmms.md"
_SEEN = r"(run|contract|not run)(, .+|: .+)?"
"""How a cell begins that is no "no"."""


def _table() -> Iterator[list[str]]:
    """The cells of each row of the table under the last heading."""
    text = re.sub(r" *<!--.*?-->", "", _DOC.read_text().rpartition("\n## ")[2])
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """For each feature what is said of it, VMM by VMM."""
    head, *rows = _table()
    names = [name.rpartition(" ")[0].lower().replace(" ", "-") for name in head[1:]]
    assert names == list(BACKENDS)
    return {feature: cells for feature, *cells in rows}


@pytest.mark.parametrize("capability", WORDS)
def test_a_capability(rows: dict[str, list[str]], capability: str) -> None:
    for cell, backend in zip(rows[WORDS[capability]], BACKENDS.values(), strict=True):
        if reason := getattr(backend.capabilities, capability):
            assert cell == f"no: {reason.replace('`', '')}"
        else:
            assert re.fullmatch(_SEEN, cell), f"{backend.name}: {cell}"


def test_what_is_no_capability_works_with_every_vmm(rows: dict[str, list[str]]) -> None:
    for feature in rows.keys() - set(WORDS.values()):
        assert [cell for cell in rows[feature] if not re.fullmatch(_SEEN, cell)] == [], feature
