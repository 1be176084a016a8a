"""Round trips of commands in a running Debian guest under software emulation.

Usage: ``python -m bench.commands [COUNT]``, by default 1000 of each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from attest.cluster import Cluster
from bench.figures import HEADER, row

_PAUSE = 0.15
"""Seconds between two paced commands: more than an emulated bash needs to start."""


def _series(count: int, call: Callable[[], object], pause: float = 0.0) -> list[float]:
    seconds = []
    for _ in range(count):
        time.sleep(pause)
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    """Boot one machine and print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with Cluster({"nodes": {"machine": {"image": "debian"}}}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        machine.connect()
        channel = machine.channel
        print(HEADER)
        print(row("agent asked for its state", _series(count, channel.info)))
        true = _series(count, lambda: machine.succeed("true"))
        print(row("succeed('true'), one after the other", true))
        paced = _series(max(count // 5, 1), lambda: machine.succeed("true"), _PAUSE)
        print(row("succeed('true'), with pauses between", paced))
        cold = _series(max(count // 10, 1), lambda: channel.run("true", cwd="/tmp"))
        print(row("a bash started for it", cold))
        program = _series(max(count // 10, 1), lambda: channel.run(["/bin/true"]))
        print(row("a program started for it", program))


if __name__ == "__main__":
    main()
