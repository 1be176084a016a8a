"""What makes a snapshot another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from attest.snapshot.shape import Shape, host_cpu
from attest.vmm.qemu import tsc
from attest.vmm.qemu.binary import find_qemu

SHAPE = Shape(
    image="0" * 64, image_name="tiny", vmm="QEMU 10.0.2", accelerator="tcg", cpu="a processor",
    machine="microvm", memory=96, vcpus=1, nics=1, disks=("empty 10 MiB",),
    warm_until="multi-user.target", warm_steps=("true",),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    """What a process finds out about its host once."""
    for found in (find_qemu, host_cpu, tsc.tsc_khz):
        found.cache_clear()


def test_equal_shapes_have_one_key() -> None:
    assert msgspec.structs.replace(SHAPE).key() == SHAPE.key()
    assert len(SHAPE.key()) == 64


@pytest.mark.parametrize("field", Shape.__struct_fields__)
def test_each_field_changes_the_key(field: str) -> None:
    other = msgspec.structs.replace(SHAPE, **{field: another(getattr(SHAPE, field))})
    assert other.key() != SHAPE.key()


def another(value: object) -> object:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value} "
        case tuple():
            return (*value, "another")
    raise TypeError(value)


def test_what_is_beside_each_other_is_not_mixed_up() -> None:
    keys = {
        msgspec.structs.replace(SHAPE, warm_steps=steps).key()
        for steps in (("a", "b"), ("a b",), ("ab",), ("b", "a"), ())
    }
    assert len(keys) == 5


def test_a_machine_has_booted_and_has_its_files_before_its_steps_have_run() -> None:
    booted = msgspec.structs.replace(SHAPE, warm_steps=())
    filled = msgspec.structs.replace(booted, files=("/srv/app 0123",))
    both = msgspec.structs.replace(filled, warm_steps=("true",))
    assert list(booted.earlier()) == []
    assert list(SHAPE.earlier()) == list(filled.earlier()) == [booted]
    assert list(both.earlier()) == [filled, booted]
    assert [each.state for each in (booted, filled, both)] == ["booted", "files", "steps"]


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that calls itself QEMU."""
    binary = tmp_path / "qemu"
    binary.write_text("#!/bin/sh\necho QEMU emulator version 10.0.2\n")
    binary.chmod(0o755)
    monkeypatch.setenv("ATTEST_QEMU", str(binary))
    return binary


def upgraded(binary: Path, content: str, seconds: int = 0) -> str:
    """The VMM after an upgrade whose file has the time of the one before, plus some seconds."""
    before = binary.stat()
    binary.write_text(content)
    times = (before.st_atime_ns, before.st_mtime_ns + seconds * 1_000_000_000)
    os.utime(binary, ns=times)
    forget()
    return find_qemu().identity


def test_an_upgraded_vmm_is_another_one(qemu: Path) -> None:
    first, content = find_qemu().identity, qemu.read_text()
    assert "10.0.2" in first
    assert upgraded(qemu, content) == first
    described = [
        first,
        upgraded(qemu, content + "# rebuilt\n"),
        upgraded(qemu, content, seconds=1),
        upgraded(qemu, content.replace("10.0.2", "10.0.3")),
    ]
    assert len(set(described)) == 4


def test_an_equal_vmm_elsewhere_is_another_one(
    qemu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_qemu().identity
    monkeypatch.setenv("ATTEST_QEMU", str(qemu.rename(tmp_path / "elsewhere")))
    forget()
    assert find_qemu().identity != first


@pytest.mark.parametrize(
    ("khz", "same"), [(2_000_000, True), (2_004_000, True), (2_100_000, False)]
)
def test_the_processor_is_described_with_its_counters_rate_to_a_percent(
    khz: int, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(khz: int) -> str:
        monkeypatch.setattr("attest.snapshot.shape.tsc_khz", lambda: khz)
        host_cpu.cache_clear()
        return host_cpu()

    assert (described(khz) == described(2_000_000)) is same
