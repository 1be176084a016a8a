"""The examples in the docstrings, run as they are.

An example is a literal block after a line ``Example::`` in the docstring of a public name of
`attest`, or of a public method of one; `Instance` is looked at, too. It finds these names:

- `attest`: the package;
- `cluster`: an open cluster with the Debian machines `server` and `client` on one network, which
  may be off, and may have been used;
- `machine`: the server.

Each example has a namespace of its own, and runs in the project's root. One that spoils a machine
ends or restores it.
"""

from __future__ import annotations

import inspect
import linecache
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import attest
from attest.machine.instance import Instance

_ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^( *)Example::\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


def _documented() -> Iterator[tuple[str, object]]:
    """Everything whose docstring may have an example."""
    for public in [*(getattr(attest, name) for name in attest.__all__), Instance]:
        yield public.__name__, public
        if inspect.isclass(public):
            for name, member in inspect.getmembers(public):
                if not name.startswith("_"):
                    yield f"{public.__name__}.{name}", member


def _examples() -> dict[str, str]:
    found = {}
    for name, documented in _documented():
        doc = inspect.getdoc(documented) or ""
        for number, block in enumerate(_BLOCK.finditer(f"{doc}\n"), 1):
            found[name if number == 1 else f"{name} {number}"] = textwrap.dedent(block[2])
    return found


_EXAMPLES = _examples()


@pytest.fixture(scope="module")
def cluster() -> Iterator[attest.Cluster]:
    """What all examples share, as booting takes the time."""
    nodes = {name: {"image": "debian"} for name in ("server", "client")}
    with attest.Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        yield cluster


@pytest.mark.parametrize("name", _EXAMPLES)
def test_an_example_does_what_it_says(
    name: str, cluster: attest.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_ROOT)
    text, file = _EXAMPLES[name], f"<the example of {name}>"
    # So that a traceback shows its lines.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names = {"attest": attest, "cluster": cluster, "machine": cluster["server"]}
    exec(compile(text, file, "exec"), names)


def test_what_users_hold_in_their_hands_has_an_example() -> None:
    assert {"Machine", "Machine.run", "Snapshot", "Checkpoint", "Instance"} <= set(_EXAMPLES)
