"""What goes over a network between two machines, and through attest's own VDE switch."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from attest.cluster.cluster import Cluster
from attest.machine.machine import Machine
from attest.net.vde import join
from bench.figures import Figure, series

_MIB = 50
_RUNS = 3
_FRAMES = 5000


def figures() -> list[Figure]:
    """TCP over the bridge, and frames through the switch."""
    nodes = {"a": {"image": "debian"}, "b": {"image": "debian"}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        a, b = cluster["a"], cluster["b"]
        cluster.start_all()
        over = series(_RUNS, lambda: _send(a, b, "b"))
        inside = series(_RUNS, lambda: _send(a, a, "localhost"))
        way = series(20, lambda: a.succeed("ping -q -c 1 b"))
        loop = series(20, lambda: a.succeed("ping -q -c 1 localhost"))
    switched, handed = _switch()
    return [
        Figure(f"TCP over a bridge, {_MIB} MiB", over, "within one guest", inside),
        Figure("ping over a bridge, as a command", way, "to the guest itself", loop),
        Figure(f"VDE switch, {_FRAMES} frames", switched, "from socket to socket", handed),
    ]


def _send(sender: Machine, receiver: Machine, name: str) -> None:
    receiver.succeed("systemd-run --quiet --collect sh -c 'nc -l 9000 >/dev/null; touch /run/came'")
    sender.wait_until_succeeds(f"head -c {_MIB}M /dev/zero | nc -N {name} 9000")
    receiver.wait_for_file("/run/came")
    receiver.succeed("rm /run/came")


def _switch() -> tuple[list[float], list[float]]:
    """Seconds for frames that are sent and read in turn."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        place = Path(directory)
        listener.bind(str(place / "ctl"))
        listener.listen()
        command = [sys.executable, "-m", "attest.net.vde", str(listener.fileno()), directory]
        with subprocess.Popen(command, pass_fds=[listener.fileno()]) as switch:
            plugs = [join(place / "ctl", place / f"program{number}") for number in range(2)]
            (_, one), (_, other) = plugs
            switched = series(_RUNS, lambda: _pass(one, other))
            switch.kill()
        for plug in plugs:
            for sock in plug:
                sock.close()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        return switched, series(_RUNS, lambda: _pass(one, other))


def _pass(one: socket.socket, other: socket.socket) -> None:
    frame = b"\xff" * 6 + b"\x02" + bytes(1493)
    for _ in range(_FRAMES):
        one.send(frame)
        other.recv(2000)
