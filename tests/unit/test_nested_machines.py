"""Nested machines: what is refused before the start, and what is told of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from attest.errors import HostError, ManifestError
from attest.host.checks import Level, nested_finding
from attest.image.model import Image
from attest.manifest import parse_manifest
from attest.node.resolved import resolve
from attest.snapshot.shape import Shape
from attest.vmm.base import MachineSpec
from attest.vmm.qemu import nested
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.command_line import Inherited, command_line

OLD, NEW = (7, 2, 22), (10, 0, 2)


def image(*kvm: str, root: bool = True) -> Image:
    """An image that can load these modules."""
    path = Path("/images/own")
    return Image(
        digest="0" * 64, name="own", arch="x86_64", path=path, kernel=path / "vmlinuz",
        vmlinux=path / "vmlinux", initrd=path / "initrd", root=path / "root" if root else None,
        cmdline=(), init="systemd", kernel_version="6.1.0", kvm=kvm,
    )  # fmt: skip


@pytest.fixture
def loaded(tmp_path: Path) -> Path:
    """What stands for the modules that the host has loaded: none, so far."""
    return tmp_path


def load(modules: Path, name: str, nested: str) -> None:
    (modules / name / "parameters").mkdir(parents=True)
    (modules / name / "parameters/nested").write_text(f"{nested}\n")


def test_a_nested_machine_is_a_q35_by_itself() -> None:
    nodes = parse_manifest({"nodes": {"a": {"nested": True}, "b": {}}}).nodes
    assert (nodes["a"].machine, nodes["b"].machine) == ("q35", "microvm")
    parse_manifest({"nodes": {"a": {"nested": True, "machine": "q35"}}})


def test_a_nested_microvm_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"nodes\.a\.machine: a nested machine is a q35"):
        parse_manifest({"nodes": {"a": {"nested": True, "machine": "microvm"}}})


@pytest.mark.parametrize(
    ("vcpus", "accelerator", "qemu"), [(1, "tcg", OLD), (2, "tcg", NEW), (2, "kvm", OLD)]
)
def test_several_cpus_are_for_newer_qemus_or_kvm(
    vcpus: int, accelerator: str, qemu: tuple[int, int, int], loaded: Path
) -> None:
    load(loaded, "kvm_amd", "1")
    nested.check_machine("a", image("kvm_amd"), vcpus, accelerator, qemu, modules=loaded)


def test_several_cpus_on_an_old_qemu_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"nodes\.a\.vcpus: .* QEMU 7\.2\.22 .* freezes"):
        nested.check_machine("a", image("kvm_amd"), 2, "tcg", OLD)


@pytest.mark.parametrize(
    ("without", "line"),
    [
        (image(), 'kernel = "linux-image-amd64"'),
        (image("kvm_intel"), 'kernel = "linux-image-amd64"'),
        (image(root=False), 'modules = ["kvm_amd"]'),
    ],
)
def test_an_image_without_the_module_is_refused_with_the_line_that_its_recipe_lacks(
    without: Image, line: str
) -> None:
    with pytest.raises(ManifestError, match=r"nodes\.a\.nested: .* own .*kvm_amd") as caught:
        nested.check_machine("a", without, 1, "tcg", NEW)
    assert line in caught.value.hint


def test_its_snapshots_are_not_those_of_other_machines() -> None:
    def shape(name: str, **keys: object) -> Shape:
        node = parse_manifest({"nodes": {name: {"machine": "q35", **keys}}}).nodes[name]
        own = image("kvm_amd", root=False)
        resolved = resolve(name, 1, node, own, accelerator="tcg", vmm="qemu", programs={})
        return resolved.shape(disks=[])

    assert shape("a") == shape("b") != shape("c", nested=True)


@pytest.mark.parametrize("module", ["kvm_amd", "kvm_intel"])
def test_with_kvm_the_module_is_the_hosts(module: str, loaded: Path) -> None:
    load(loaded, module, "Y")
    nested.check_machine("a", image(module), 1, "kvm", NEW, modules=loaded)
    other = "kvm_intel" if module == "kvm_amd" else "kvm_amd"
    with pytest.raises(ManifestError, match=module):
        nested.check_machine("a", image(other), 1, "kvm", NEW, modules=loaded)
    assert module in nested.kernel_argument("kvm", nested=True, modules=loaded)
    assert other not in nested.kernel_argument("kvm", nested=True, modules=loaded)
    assert "kvm_amd" in nested.kernel_argument("tcg", nested=True)


@pytest.mark.parametrize("setting", ["0", "N"])
def test_a_host_that_does_not_nest_is_told_how_it_would(setting: str, loaded: Path) -> None:
    load(loaded, "kvm_intel", setting)
    with pytest.raises(HostError, match="kvm_intel is loaded without") as caught:
        nested.check_machine("a", image("kvm_intel"), 1, "kvm", NEW, modules=loaded)
    assert "modprobe kvm_intel nested=1" in caught.value.hint
    nested.check_machine("a", image("kvm_amd"), 1, "tcg", NEW)  # what is emulated does not care


def test_other_architectures_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(HostError, match="x86-64"):
        nested.check_machine("a", image("kvm_amd"), 1, "tcg", NEW)


@pytest.mark.parametrize(
    ("version", "level", "words"),
    [("7.2.22", Level.WARNING, "one CPU"), ("10.0.2", Level.OK, "emulates AMD SVM")],
)
def test_the_doctor_tells_of_emulation(
    version: str, level: Level, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\necho QEMU emulator version {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("ATTEST_QEMU", str(program))
    find_qemu.cache_clear()
    try:
        finding = nested_finding("tcg")
    finally:
        find_qemu.cache_clear()
    assert finding.level is level
    assert words in finding.text
    assert bool(finding.fix) == (level is Level.WARNING)


@pytest.mark.parametrize(("setting", "level"), [("1", Level.OK), ("0", Level.WARNING)])
def test_the_doctor_tells_of_the_hosts_kvm(setting: str, level: Level, loaded: Path) -> None:
    load(loaded, "kvm_amd", setting)
    finding = nested_finding("kvm", modules=loaded)
    assert finding.level is level
    assert "kvm_amd" in finding.text
    assert ("nested=1" in finding.fix) == (level is Level.WARNING)


@pytest.mark.parametrize(
    ("accelerator", "nested", "expected"),
    [("tcg", True, "tcg,tb-size=2047"), ("tcg", False, "tcg"), ("kvm", False, "kvm")],
)
def test_emulated_ones_have_room_for_translations(
    accelerator: Literal["kvm", "tcg"], nested: bool, expected: str, tmp_path: Path
) -> None:
    spec = MachineSpec(
        name="a", image=image("kvm_amd"), memory=64, vcpus=1, machine="q35",
        accelerator=accelerator, directory=tmp_path, nested=nested,
    )  # fmt: skip
    line = command_line(find_qemu(), spec, Inherited(3, 4, 5, 6, None, 7))
    assert line[line.index("-accel") + 1] == expected
