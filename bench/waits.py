"""From the moment at which something is so in the guest to the return of the wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from attest.cluster.cluster import Cluster
from attest.guest.agent.channel import AgentChannel
from attest.machine.machine import Machine
from bench.figures import Figure, series

_COUNT = 15

_FILE = "sleep 0.7; when=$EPOCHREALTIME; : >/run/there; echo $when >/run/when"
_UNIT = "sleep 0.7; echo $EPOCHREALTIME >/run/when"


def figures() -> list[Figure]:
    """Of a file, and of a unit, which is active when what it starts has ended.

    The guest notes its clock's time; how far that is from the host's is known to half the way.
    """
    with Cluster({"nodes": {"m": {"image": "debian"}}}, accelerator="tcg") as cluster:
        machine = cluster["m"]
        machine.connect()
        channel = machine._lifecycle.ready()
        assert isinstance(channel, AgentChannel)
        way = series(100, channel.info)
        ahead = _ahead(machine)
        file = [
            _late(machine, "", _FILE, lambda: machine.wait_for_file("/run/there")) - ahead
            for _ in range(_COUNT)
        ]
        unit = [
            _late(machine, "--property=Type=oneshot --remain-after-exit", _UNIT,
                  lambda: machine.wait_for_unit("event.service")) - ahead
            for _ in range(_COUNT)
        ]  # fmt: skip
    limit = "a question to the agent"
    return [
        Figure("wait_for_file, from the event on", file, limit, way),
        Figure("wait_for_unit, from the event on", unit, limit, way),
    ]


def _ahead(machine: Machine) -> float:
    """Seconds that the guest's clock is ahead of the host's."""
    looks = []
    for _ in range(30):
        begun = time.time()
        guest = float(machine.succeed("echo $EPOCHREALTIME"))
        ended = time.time()
        looks.append((ended - begun, (begun + ended) / 2 - guest))
    return min(looks)[1]


def _late(machine: Machine, options: str, event: str, wait: Callable[[], None]) -> float:
    """Seconds by the two clocks from the event to the wait's return."""
    machine.succeed(
        "systemctl stop event.service 2>/dev/null || true; rm -f /run/there /run/when",
        f"systemd-run --quiet --no-block --collect --unit event {options} bash -c '{event}'",
    )
    wait()
    ended = time.time()
    machine.wait_for_file("/run/when")
    return ended - float(machine.succeed("cat /run/when"))
