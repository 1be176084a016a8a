"""How to install what only some commands need: as whoever runs attest has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attest.support import extras


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("{tmp}/checkout/src/attest/support/extras.py", "make -C {tmp}/checkout setup"),
        (
            "{tmp}/site-packages/attest/support/extras.py",
            sys.executable + " -m pip install 'attest-vm[check]'",
        ),
        (
            "/nix/store/abc-attest/lib/python3/site-packages/attest/support/extras.py",
            "add attest's `optional-dependencies.check` to the Python that Nix makes for it",
        ),
    ],
)
def test_the_way_is_that_of_the_environment(
    place: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tmp_path / "checkout/tools/setup.py"
    setup.parent.mkdir(parents=True)
    setup.touch()
    monkeypatch.setattr(extras, "__file__", place.format(tmp=tmp_path))
    assert extras.how_to_install("check") == how.format(tmp=tmp_path)
