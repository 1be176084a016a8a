"""How to install what only some commands need: as whoever runs attest has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attest.support.extras import how_to_install


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("{tmp}/checkout/src/attest", "make -C {tmp}/checkout setup"),
        (
            "{tmp}/site-packages/attest",
            sys.executable + " -m pip install 'attest-vm[check]'",
        ),
        (
            "/nix/store/abc-attest/lib/python3/site-packages/attest",
            "add attest's `optional-dependencies.check` to the Python that Nix makes for it",
        ),
    ],
)
def test_the_way_is_that_of_the_environment(place: str, how: str, tmp_path: Path) -> None:
    setup = tmp_path / "checkout/tools/setup.py"
    setup.parent.mkdir(parents=True)
    setup.touch()
    package = Path(place.format(tmp=tmp_path))
    assert how_to_install("check", package) == how.format(tmp=tmp_path)
