"""Snapshots in a directory that the user names, with small files in their place."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from attest.cli.command import _attest
from attest.errors import UsageError
from attest.snapshot import record
from attest.snapshot.prebuilt import PrebuiltSnapshots, UnfitError
from attest.snapshot.shape import Shape

SHAPE = Shape(
    image="0123456789abcdef", image_name="tiny", vmm="QEMU 10", accelerator="tcg", cpu="A, 2 GHz",
    machine="microvm", memory=96, vcpus=1, nics=1,
)  # fmt: skip


def put(directory: Path, shape: Shape) -> Path:
    """A snapshot as it is in a store: with other times than it was written with, and read-only."""
    path = directory / shape.key()
    path.mkdir(parents=True)
    for name in ("memory", "state"):
        (path / name).write_bytes(name.encode())
    record.write_record(path, shape, moves=True)
    for file in path.iterdir():
        os.utime(file, (1, 1))
        file.chmod(0o444)
    return path


def why(directory: Path, **wanted: object) -> str:
    """Why there is no snapshot of a shape that differs so."""
    with pytest.raises(UnfitError) as error:
        PrebuiltSnapshots(directory).find(msgspec.structs.replace(SHAPE, **wanted))
    return str(error.value)


def test_a_snapshot_of_the_shape_is_found(tmp_path: Path) -> None:
    put(tmp_path, msgspec.structs.replace(SHAPE, memory=100))
    path = put(tmp_path, SHAPE)
    entry = PrebuiltSnapshots(tmp_path).find(SHAPE)
    assert (entry.path, entry.shape) == (path, SHAPE)
    assert entry.saved.memory == path / "memory"


def test_it_is_good_in_every_boot_of_every_host(tmp_path: Path) -> None:
    assert record.read_record(put(tmp_path, SHAPE)).boot_id == ""
    assert PrebuiltSnapshots(tmp_path).find(SHAPE)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"vmm": "QEMU 11"}, "VMM QEMU 10, this is QEMU 11"),
        ({"cpu": "B, 2 GHz"}, "processor A, 2 GHz, this is B, 2 GHz"),
        ({"accelerator": "kvm"}, "accelerator tcg, this is kvm"),
        ({"memory": 100}, "memory 96 MiB, this is 100 MiB"),
        ({"image": "fedcba9876543210"}, "image 0123456789ab, this is fedcba987654"),
        ({"hugepages": True}, "huge pages no, this is yes"),
        ({"warm_steps": ("a", "b")}, "warm steps none, this is a, b"),
        ({"channel": "vsock"}, "channel none, this is vsock"),
        ({"vcpus": 2, "nics": 3}, "vcpus 1, this is 2; with network cards 1, this is 3"),
    ],
)
def test_what_differs_is_told(tmp_path: Path, wanted: dict[str, object], words: str) -> None:
    put(tmp_path, SHAPE)
    assert why(tmp_path, **wanted) == f"the snapshot in {tmp_path} was made with {words}"


def test_the_snapshot_that_differs_least_is_told_of(tmp_path: Path) -> None:
    put(tmp_path, msgspec.structs.replace(SHAPE, memory=128, vcpus=4))
    put(tmp_path, SHAPE)
    put(tmp_path, msgspec.structs.replace(SHAPE, memory=256, vcpus=4))
    assert why(tmp_path, memory=100).endswith("made with memory 96 MiB, this is 100 MiB")


def test_without_any_of_the_image_the_others_are_named(tmp_path: Path) -> None:
    nothing = f"{tmp_path} has no snapshot of tiny, nor any other that this attest can read"
    assert why(tmp_path) == nothing
    path = put(tmp_path, msgspec.structs.replace(SHAPE, image_name="web"))
    assert why(tmp_path) == f"{tmp_path} has no snapshot of tiny, only of web"
    (path / record.RECORD).chmod(0o644)
    (path / record.RECORD).write_text("{}")
    assert why(tmp_path) == nothing


@pytest.mark.parametrize(
    ("file", "content", "wrong"),
    [
        ("memory", b"short", "memory: 5 bytes, 6 were written"),
        ("state", b"STATE", "state: its content is not what was written"),
        ("entry.json", b"{}", "entry.json: Object missing required field `shape`"),
    ],
)
def test_a_damaged_one_is_not_used_and_stays(
    tmp_path: Path, file: str, content: bytes, wrong: str
) -> None:
    path = put(tmp_path, SHAPE)
    (path / file).chmod(0o644)
    (path / file).write_bytes(content)
    assert why(tmp_path) == f"the snapshot in {tmp_path} is damaged: {wrong}"
    assert sorted(each.name for each in path.iterdir()) == ["entry.json", "memory", "state"]


# attest cache make


def make(manifest: Path, text: str, into: Path) -> UsageError:
    """What `attest cache make` has against it, before anything starts."""
    manifest.write_text(text)
    result = CliRunner().invoke(_attest, ["cache", "make", str(manifest), "--into", str(into)])
    assert isinstance(result.exception, UsageError)
    return result.exception


def test_make_wants_a_new_directory(tmp_path: Path) -> None:
    error = make(tmp_path / "test.toml", '[nodes.one]\nimage = "tiny"\n', tmp_path)
    assert error.message == f"--into: {tmp_path} is not empty"
    error = make(tmp_path / "test.toml", '[nodes.one]\nimage = "tiny"\n', Path("/proc/none"))
    assert error.message == "--into: cannot make /proc/none: No such file or directory"


def test_make_wants_a_machine_that_can_be_saved(tmp_path: Path) -> None:
    script = tmp_path / "run-one-vm"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    text = f'[nodes.one]\nstart_command = "{script}"\n'
    error = make(tmp_path / "test.toml", text, tmp_path / "new")
    assert "no node has an image" in error.message
    assert not (tmp_path / "new").exists()
