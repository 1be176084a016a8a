"""The command `attest`, with the steps of a start timed: what each takes, and when it is done.

``python -m bench.steps OUT run …`` is ``attest run …`` and writes the steps to OUT as JSON.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Step", "read"]


class Step(NamedTuple):
    """One call of a function, in seconds of the host's monotonic clock."""

    name: str
    begin: float
    end: float


def read(out: Path) -> list[Step]:
    """The steps that were written."""
    return [Step(*each) for each in json.loads(out.read_text())]


_steps: list[Step] = []


def _timed(owner: Any, function: str, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, function)

    @functools.wraps(original)
    def call(*args: Any, **options: Any) -> Any:
        begin = time.monotonic()
        try:
            return original(*args, **options)
        finally:
            _steps.append(Step(name, begin, time.monotonic()))

    setattr(owner, function, call)


def _watch() -> None:
    """Wrap the functions that make up a start; what is indented is part of what is not."""
    from attest.cluster import cluster
    from attest.cluster.ground import Ground
    from attest.guest.agent.channel import AgentChannel
    from attest.script.run import ScriptRun
    from attest.snapshot.cache import SnapshotCache
    from attest.vmm.qemu import vmm as qemu

    _timed(cluster.Cluster, "__init__", "cluster")
    _timed(Ground, "ready", "  cell, bridges, taps: waited for")
    _timed(ScriptRun, "run", "script")
    _timed(SnapshotCache, "obtain", "  snapshot looked up")
    _timed(qemu, "WatchedProcess", "  VMM forked")
    _timed(qemu.Qemu, "__init__", "  VMM started, snapshot loaded")
    _timed(qemu.Qemu, "resume", "  machine runs")
    _timed(AgentChannel, "connect", "  agent answers")
    _timed(AgentChannel, "identity", "  identity taken")
    _timed(cluster.Cluster, "close", "end")


def main() -> None:
    """Run the command."""
    out = Path(sys.argv.pop(1))
    begun = time.monotonic()
    from attest import cli
    from attest.cli import run

    _steps.append(Step("imports, until the cell is begun", begun, time.monotonic()))

    @contextmanager
    def importing() -> Iterator[None]:
        begun = time.monotonic()
        with cli.importing():
            yield
        _steps.append(Step("imports, while it is made", begun, time.monotonic()))
        _watch()

    vars(run)["importing"] = importing
    try:
        cli.main()
    finally:
        out.write_text(json.dumps(_steps))


if __name__ == "__main__":
    main()
