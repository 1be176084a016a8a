"""Round trips of commands in a running Debian guest under software emulation, and their parts.

The parts are those of ``succeed("true")``, a mean of all:

- host: the driver, before the request is written and after the first of the answer is there;
- channel: the way of a question that the agent answers at once, there and back;
- guest: the rest, until the answer is written;
- agent, template, shell: what of the guest's processor each took, also while nobody waited for it.
  The shell is forked from the template, runs the command, and is cleared away.

Usage: ``python -m bench.commands [COUNT]``, by default 1000 of each.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from attest.cluster.cluster import Cluster
from attest.guest.agent.channel import AgentChannel
from attest.guest.agent.protocol import FrameParser
from attest.guest.agent.session import Session
from attest.guest.channel import Command
from attest.machine.machine import Machine
from bench.figures import HEADER, Figure, row, series

_PAUSE = 0.15
"""Seconds between two paced commands: more than an emulated bash needs to start."""

_THREADS = 20

_LOOP = 100


class _Wire:
    """When requests have been written, and when the first of an answer has come."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._written: float | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch all sessions; ``seconds`` then has the time of each question on its way."""
        write, feed = Session.send, FrameParser.feed

        def send(session: Session, frame: bytes, until: float | None = None) -> None:
            write(session, frame, until)
            self._written = time.perf_counter()

        def came(parser: FrameParser, data: Any) -> Any:
            if self._written is not None:
                self.seconds.append(time.perf_counter() - self._written)
                self._written = None
            return feed(parser, data)

        Session.send, FrameParser.feed = send, came  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Session.send, FrameParser.feed = write, feed  # type: ignore[method-assign]


def _processor(machine: Machine) -> dict[str, float]:
    """Seconds of the guest's processor: of the agent, the template, and all shells that ended."""
    agent, ended, template = machine.succeed(
        'cut -d" " -f1 /proc/$PPID/schedstat; cut -d" " -f16,17 /proc/$PPID/stat;'
        'cut -d" " -f1 /proc/$(pgrep -o -P $PPID -x bash)/schedstat'
    ).splitlines()
    return {
        "agent": int(agent) / 1e9,
        "template": int(template) / 1e9,
        "shell": sum(map(int, ended.split())) / 100,
    }


def _parts(machine: Machine, count: int, pause: float) -> str:
    def true() -> None:
        machine.succeed("true")

    channel = machine._lifecycle.ready()
    assert isinstance(channel, AgentChannel)
    question, command = _Wire(), _Wire()
    with question.watched():
        series(count, channel.info, pause)
    before = _processor(machine)
    with command.watched():
        total = series(count, true, pause)
    after = _processor(machine)
    way = statistics.median(question.seconds)
    parts = {
        "total": statistics.median(total),
        "host": statistics.median(total) - statistics.median(command.seconds),
        "channel": way,
        "guest": statistics.median(command.seconds) - way,
    } | {name: (after[name] - before[name]) / count for name in after}
    return "  ".join(f"{name} {seconds * 1000:.2f}" for name, seconds in parts.items())


def _at_once(count: int, call: Callable[[], object]) -> list[float]:
    """The times of calls in threads of which each makes its share, one after the other."""
    seconds: list[float] = []
    share = max(count // _THREADS, 1)
    threads = [
        threading.Thread(target=lambda: seconds.extend(series(share, call)))
        for _ in range(_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def _microseconds(times: str) -> int:
    begun, ended = (int(each.replace(".", "")) for each in times.split())
    return ended - begun


def figures() -> list[Figure]:
    """Of one command after the other, held to bash's own fork and exec in the guest."""
    with Cluster({"nodes": {"machine": {"image": "debian"}}}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        machine.connect()
        channel = machine._lifecycle.ready()
        assert isinstance(channel, AgentChannel)
        loop = f"begun=$EPOCHREALTIME; for i in {{1..{_LOOP}}}; do /bin/true; done"
        times = [machine.succeed(f"{loop}; echo $begun $EPOCHREALTIME") for _ in range(5)]
        bare = [_microseconds(each) / 1e6 / _LOOP for each in times]
        way = series(300, channel.info)
        true = series(300, lambda: machine.succeed("true"))
        program = series(100, lambda: channel.run(Command(["/bin/true"])))
    limit = "fork and exec of /bin/true by bash, inside"
    return [
        Figure("a question to the agent", way, limit, bare),
        Figure('succeed("true")', true, limit, bare),
        Figure("a program started by the agent", program, limit, bare),
    ]


def main() -> None:
    """Boot one machine and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.commands", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=1000, help="commands [default: 1000]")
    count = parser.parse_args().count
    with Cluster({"nodes": {"machine": {"image": "debian"}}}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        machine.connect()
        channel = machine._lifecycle.ready()
        assert isinstance(channel, AgentChannel)
        print(HEADER)
        print(row("agent asked for its state", series(count, channel.info)))
        true = series(count, lambda: machine.succeed("true"))
        print(row("succeed('true'), one after the other", true))
        paced = series(max(count // 5, 1), lambda: machine.succeed("true"), _PAUSE)
        print(row("succeed('true'), with pauses between", paced))
        at_once = _at_once(count, lambda: machine.succeed("true"))
        print(row(f"succeed('true'), {_THREADS} at once", at_once))
        cold = series(max(count // 10, 1), lambda: channel.run(Command("true", cwd="/tmp")))
        print(row("a bash started for it", cold))
        program = series(max(count // 10, 1), lambda: channel.run(Command(["/bin/true"])))
        print(row("a program started for it (/bin/true)", program))
        print(f"\none after the other: {_parts(machine, count, 0)}")
        print(f"with pauses between: {_parts(machine, max(count // 5, 1), _PAUSE)}")


if __name__ == "__main__":
    main()
