"""`attest cache make` and `attest run --snapshots`, on a file system that nobody can write to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.events import Event, EventLog, Kind
from attest.snapshot import record
from tests.qemus import UNPACKED

NODES = {"a": {"image": "tiny", "memory": 96}, "b": {"image": "tiny", "memory": 96}}

SHAPES = """
script = '''
start_all()
assert large.succeed("cat /dev/vda | tr -d '\\\\0'") == "given"
assert large.succeed("echo written > /dev/vda; head -c 7 /dev/vda") == "written"
small.succeed("ping -c 1 large && ping -c 1 other")
'''
[nodes.small]
image = "tiny"
memory = 96
[nodes.other]
image = "tiny"
memory = 96
[nodes.large]
image = "tiny"
memory = 112
disks = [{ image = "disk" }]
"""

READ_ONLY = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", """
directory=$1; shift
mount --bind "$directory" "$directory"
mount -o remount,bind,ro "$directory"
exec "$@"
""", "read-only"]  # fmt: skip

QEMUS = ["", *map(str, UNPACKED)]


def attest(*arguments: str | Path, inside: list[str | Path], qemu: str) -> str:
    command = [*inside, sys.executable, "-m", "attest", *arguments, "--accel", "tcg"]
    environment = {**os.environ, "ATTEST_QEMU": qemu}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize("qemu", QEMUS, ids=lambda path: Path(path).parts[-3] if path else "")
def test_machines_start_from_a_directory_that_is_only_read(tmp_path: Path, qemu: str) -> None:
    """Before 8.2, QEMU opens the memory for writing."""
    manifest, snapshots = tmp_path / "test.toml", tmp_path / "snapshots"
    manifest.write_text(SHAPES)
    (tmp_path / "disk").write_bytes(b"given".ljust(1 << 20, b"\0"))
    said = attest("cache", "make", manifest, "--into", snapshots, inside=[], qemu=qemu)
    assert len(re.findall(r"^made tiny [0-9a-f]{12}: \d+ MiB$", said, re.MULTILINE)) == 2
    assert len(list(snapshots.iterdir())) == 2
    said = attest(
        "run", manifest, "--snapshots", snapshots, inside=[*READ_ONLY, snapshots], qemu=qemu
    )
    assert said.count(f"it starts from the snapshot in {snapshots}, made 2") == 2
    assert "warning" not in said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("snapshots")
    with Cluster({"nodes": NODES}, accelerator="tcg", cold=True) as cluster:
        (path,) = cluster.make_snapshots(directory)
    assert path.parent == directory
    return directory


def test_a_snapshot_that_does_not_restore_is_told_once_and_stays(made: Path) -> None:
    (path,) = made.iterdir()
    (path / "state").write_bytes(b"no state")
    shape = record.read_record(path).shape
    (path / record.RECORD).unlink()
    record.write_record(path, shape, moves=True)
    warnings: list[str] = []

    def take(event: Event) -> None:
        if event.kind is Kind.WARNING:
            warnings.append(event.text)

    events = EventLog()
    events.subscribe(take)
    with Cluster({"nodes": NODES}, accelerator="tcg", snapshots=made, events=events) as cluster:
        cluster.start_all()
        cluster["a"].succeed("ping -c 1 b")
        cluster["b"].crash()
        cluster["b"].start()  # from a boot, without another word
        cluster["b"].succeed("true")
    (warning,) = warnings
    assert warning.startswith(f"the snapshot in {made} does not restore, so it boots: ")
    assert (path / "state").read_bytes() == b"no state"
    assert (path / "memory").stat().st_size == 96 << 20


def test_a_maker_that_is_killed_leaves_no_snapshot_that_could_be_used(tmp_path: Path) -> None:
    manifest, snapshots = tmp_path / "test.json", tmp_path / "snapshots"
    manifest.write_text(json.dumps({"nodes": NODES}))
    command = [sys.executable, "-m", "attest", "cache", "make", manifest, "--into", snapshots]
    with subprocess.Popen([*command, "--accel", "tcg"]) as maker:
        deadline = time.monotonic() + 60
        while not list(snapshots.glob("*/memory")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        maker.kill()
    (left,) = snapshots.iterdir()
    assert not re.fullmatch("[0-9a-f]{64}", left.name)


def test_cold_and_snapshots_contradict_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attest", "run", "--cold", "--snapshots", tmp_path, "x.toml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--cold and --snapshots: one of them" in result.stderr
