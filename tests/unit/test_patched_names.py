"""What tests put in the place of attest's own parts: none of its private names.

A limit or a place that a test wants otherwise is an argument of what it tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

_PATCH = re.compile(
    r"""
    \b(?:setattr|delattr) \( \s*
    (?: f?["'] attest \. [^"']* \b_\w[^"']* ["']   # by its whole name
      | [\w.()\[\]]+ , \s* ["'] _\w* ["']          # of a module or an object
    )
    """,
    re.VERBOSE,
)


def patched(source: str) -> Iterator[str]:
    """The private names that a test's source replaces, with what replaces them cut off."""
    return (" ".join(match[0].split()) for match in _PATCH.finditer(source))


@pytest.mark.parametrize(
    "source",
    [
        'monkeypatch.setattr("attest.vmm.dial._HALTED", 5.0)',
        'patch.setattr("attest.vmm.dial._Processors.standstill", still)',
        'monkeypatch.setattr(stream, "_GRACE", 0.05)',
        'context.setattr(\n        cache.store, "_claim", late\n    )',
        'monkeypatch.delattr(cache, "_held")',
    ],
)
def test_a_private_name_is_seen(source: str) -> None:
    assert len(list(patched(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        'monkeypatch.setattr("shutil.disk_usage", lambda _: usage)',
        'monkeypatch.setattr(threading, "excepthook", lambda _: None)',
        'monkeypatch.setattr("attest.vmm.dial.thread_time", lambda *_: 7)',
    ],
)
def test_other_names_are_left_alone(source: str) -> None:
    assert list(patched(source)) == []


def test_no_test_replaces_a_private_name() -> None:
    found = {
        f"{path.relative_to(TESTS)}: {each}"
        for path in TESTS.rglob("*.py")
        if path != Path(__file__)
        for each in patched(path.read_text())
    }
    assert found == set()
