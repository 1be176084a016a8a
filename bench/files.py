"""Files into a machine and out of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from attest.cluster.cluster import Cluster
from attest.machine.machine import Machine
from bench.figures import Figure, series

_MIB = 32
_SMALL = 500
_RUNS = 3


def figures() -> list[Figure]:
    """One large file, and a tree of small ones, both ways."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Cluster({"nodes": {"m": {"image": "debian"}}}, accelerator="tcg") as cluster,
    ):
        place, machine = Path(directory), cluster["m"]
        large, tree = place / "large", place / "tree"
        large.write_bytes(os.urandom(_MIB << 20))
        tree.mkdir()
        for number in range(_SMALL):
            (tree / str(number)).write_bytes(os.urandom(1000))
        machine.connect()
        return [
            *_both(machine, large, f"{_MIB} MiB"),
            *_both(machine, tree, f"{_SMALL} small files"),
        ]


def _both(machine: Machine, source: Path, name: str) -> list[Figure]:
    def put() -> None:
        machine.succeed("rm -rf /tmp/there")
        machine.copy_from_host(source, "/tmp/there")

    def inside() -> None:
        machine.succeed("rm -rf /tmp/copy", "cp -r /tmp/there /tmp/copy")

    into = series(_RUNS, put)
    copied = series(_RUNS, inside)
    out = series(_RUNS, lambda: machine.copy_from_machine("/tmp/there"))
    host = series(_RUNS, lambda: _copy(source))
    return [
        Figure(f"copy into the guest, {name}", into, "cp -r in the guest", copied),
        Figure(f"copy out of the guest, {name}", out, "copied on the host", host),
    ]


def _copy(source: Path) -> None:
    target = source.with_name("copy")
    if source.is_dir():
        shutil.copytree(source, target)
        shutil.rmtree(target)
    else:
        shutil.copyfile(source, target)
        target.unlink()
