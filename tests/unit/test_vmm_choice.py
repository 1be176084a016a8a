"""Which VMM runs a machine, by what is on this host: programs that only know their versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from attest.cluster.cluster import Cluster
from attest.errors import HostError, MachineError, ManifestError, UsageError
from attest.image.model import Image
from attest.manifest import Node, VmmName
from attest.node.vmm_choice import find_vmm
from attest.vmm.base import MachineSpec
from attest.vmm.cloud_hypervisor.binary import find_cloud_hypervisor
from attest.vmm.firecracker.binary import find_firecracker
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.registry import BACKENDS, choose, lacks

_SAYS = {
    "qemu": ["QEMU emulator version 10.0.2"],
    "firecracker": ["Firecracker v1.16.1", "v10.0.0"],
    "cloud-hypervisor": ["cloud-hypervisor v53.0"],
}

_RECORDING = """#!/bin/sh
if [ "$1" = --version ]; then echo "QEMU emulator version 10.0.2"; exit; fi
echo "$@" > {log}
exit 9
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put the program of a VMM on PATH, where there is none but QEMU so far."""
    finders = (find_qemu, find_firecracker, find_cloud_hypervisor)

    def make(vmm: str, *says: str, path: Path | None = None) -> Path:
        path = path or tmp_path / vmm
        lines = "".join(f"echo {line}\n" for line in says or _SAYS[vmm])
        path.write_text(f"#!/bin/sh\n{lines}")
        path.chmod(0o755)
        return path

    for variable in ("ATTEST_FIRECRACKER", "ATTEST_CLOUD_HYPERVISOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ATTEST_QEMU", str(make("qemu")))
    for each in finders:
        each.cache_clear()
    yield make
    for each in finders:
        each.cache_clear()


def chosen(wanted: Any, *wants: str, **programs: str) -> str:
    """The program that was chosen for a machine with these wants."""
    paths = {name.replace("_", "-"): path for name, path in programs.items()}
    return str(choose(wanted, dict.fromkeys(wants, True), paths)[1])


def test_auto_takes_the_first_that_is_here(install: Install) -> None:
    assert chosen("auto").startswith("QEMU 10.0.2")
    path = install("cloud-hypervisor")
    find_cloud_hypervisor.cache_clear()
    assert chosen("auto") == f"Cloud Hypervisor 53.0 ({path})"
    path = install("firecracker")
    find_firecracker.cache_clear()
    assert chosen("auto") == f"Firecracker 1.16.1 ({path})"


@pytest.mark.parametrize(
    ("want", "vmm"),
    [
        ("balloon", "Firecracker"),
        ("disks", "Firecracker"),
        ("prefault", "Cloud Hypervisor"),
        ("q35", "QEMU"),
        ("nested", "QEMU"),
        ("graphics", "QEMU"),
        ("compressed", "QEMU"),
        ("tcg", "QEMU"),
    ],
)
def test_auto_takes_the_first_that_can(install: Install, want: str, vmm: str) -> None:
    install("firecracker")
    install("cloud-hypervisor")
    assert chosen("auto", want).startswith(f"{vmm} ")


def test_auto_passes_over_what_is_too_old(install: Install) -> None:
    install("firecracker", "Firecracker v1.9.0", "v4.0.0")
    install("cloud-hypervisor")
    assert chosen("auto").startswith("Cloud Hypervisor ")


def test_auto_takes_a_program_that_is_only_given_by_its_path(
    install: Install, tmp_path: Path
) -> None:
    path = install("firecracker", path=tmp_path / "mine")
    assert chosen("auto", firecracker=str(path)) == f"Firecracker 1.16.1 ({path})"


def test_a_path_comes_before_the_variable_and_that_before_the_search_path(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = install("firecracker")
    assert chosen("firecracker") == f"Firecracker 1.16.1 ({found})"
    named = install("firecracker", "Firecracker v1.15.0", "v9.0.0", path=tmp_path / "named")
    monkeypatch.setenv("ATTEST_FIRECRACKER", str(named))
    find_firecracker.cache_clear()
    assert chosen("firecracker") == f"Firecracker 1.15.0 ({named})"
    given = install("firecracker", "Firecracker v1.15.1", "v9.0.0", path=tmp_path / "given")
    assert chosen("firecracker", firecracker=str(given)) == f"Firecracker 1.15.1 ({given})"


@pytest.mark.parametrize("vmm", ["firecracker", "cloud-hypervisor"])
def test_one_that_was_asked_for_and_is_missing(install: Install, vmm: str) -> None:
    with pytest.raises(HostError) as caught:
        chosen(vmm)
    assert caught.value.message == f"`{vmm}` was not found"
    assert "https://github.com/" in caught.value.hint
    assert f"ATTEST_{vmm.upper().replace('-', '_')}" in caught.value.hint


@pytest.mark.parametrize("vmm", ["firecracker", "cloud-hypervisor"])
def test_a_vmm_that_cannot_boot_the_only_kernel(install: Install, vmm: str) -> None:
    install(vmm)
    whole = Image(
        digest="", name="web", arch="", path=Path(), kernel=Path(), vmlinux=Path(), initrd=Path(),
        root=None, cmdline=(), init="agent",
    )  # fmt: skip
    assert find_vmm("web", Node(), vmm, {}, "kvm", whole)[0].name == vmm
    without = replace(whole, vmlinux=None)
    with pytest.raises(ManifestError, match=r"nodes\.web\.image: .* needs a `vmlinux`") as caught:
        find_vmm("web", Node(), vmm, {}, "kvm", without)
    assert caught.value.hint == '`vmm = "qemu"` can'
    assert find_vmm("web", Node(), "auto", {}, "kvm", without)[0].name == "qemu"


@pytest.mark.parametrize("vmm", ["qemu", "auto"])
def test_a_qemu_that_is_given_by_its_path(install: Install, tmp_path: Path, vmm: str) -> None:
    path = install("qemu", "QEMU emulator version 9.2.1", path=tmp_path / "mine")
    assert chosen(vmm, qemu=str(path)) == f"QEMU 9.2.1 ({path})"


def test_a_vmm_that_there_is_not(install: Install) -> None:
    with pytest.raises(UsageError) as caught:
        chosen("firecraker")
    expected = '"auto" or "qemu" or "firecracker" or "cloud-hypervisor"'
    assert caught.value.message == f"vmm: expected {expected}, found 'firecraker'"
    assert caught.value.hint == "did you mean `firecracker`?"


def test_a_program_of_a_vmm_that_there_is_not(install: Install) -> None:
    with pytest.raises(UsageError, match=r"programs: expected .*, found 'qemo'") as caught:
        chosen("qemu", qemo="/bin/true")
    assert caught.value.hint == "did you mean `qemu`?"


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"vmm": "firecraker"}, "did you mean `firecracker`?"),
        ({"accelerator": "kmv"}, "did you mean `kvm`?"),
        ({"accelerator": "hvf"}, ""),
        ({"programs": {"cloud_hypervisor": "/bin/true"}}, "did you mean `cloud-hypervisor`?"),
    ],
)
def test_a_cluster_of_what_there_is_not(tmp_path: Path, options: dict[str, Any], hint: str) -> None:
    """Whether or not it has a machine to which that matters."""
    script = tmp_path / "run-web-vm"
    script.touch(mode=0o755)
    manifest = {"nodes": {"web": {"start_command": str(script)}}}
    with pytest.raises(UsageError, match=r"expected .*, found ") as caught:
        Cluster(manifest, **options)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"machine": "micro"}, "did you mean `microvm`?"),
        ({"accelerator": "auto"}, ""),
        ({"channel": "vsok"}, "did you mean `vsock`?"),
    ],
)
def test_a_machine_of_what_there_is_not(tmp_path: Path, changes: dict[str, Any], hint: str) -> None:
    image = Image(
        digest="", name="web", arch="", path=Path(), kernel=Path(), vmlinux=None, initrd=Path(),
        root=None, cmdline=(), init="agent",
    )  # fmt: skip
    spec = MachineSpec(
        name="web", image=image, memory=64, vcpus=1, machine="microvm", accelerator="tcg",
        directory=tmp_path,
    )  # fmt: skip
    with pytest.raises(UsageError, match=f"web: {next(iter(changes))}: expected") as caught:
        replace(spec, **changes)
    assert caught.value.hint == hint


def test_the_names_in_types_are_those_that_there_are() -> None:
    assert get_args(VmmName) == ("auto", *BACKENDS)


def test_a_cluster_needs_no_qemu_but_the_one_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machines start with it, their snapshots are its own, and its `qemu-img` makes disks."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "qemu").write_text(_RECORDING.format(log=tools / "qemu.log"))
    (tools / "qemu-img").write_text(f'#!/bin/sh\necho "$@" >> {tools}/qemu-img.log\n')
    for program in tools.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("ATTEST_QEMU", "/nonexistent/qemu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    find_qemu.cache_clear()
    for name in ("kernel", "initrd"):
        (tmp_path / name).touch()
    description = {
        "arch": platform.machine(), "kernel": "kernel", "initrd": "initrd", "init": "systemd",
        "own_initrd": True,
    }  # fmt: skip
    (tmp_path / "web.json").write_text(json.dumps(description))
    manifest = {
        "directory": str(tmp_path),
        "nodes": {"web": {"image": "web.json", "disks": [{"size": 1}], "vlans": []}},
    }
    programs = {"qemu": str(tools / "qemu")}
    with Cluster(manifest, accelerator="tcg", cold=True, programs=programs) as cluster:
        with pytest.raises(MachineError, match="exit code 9"):
            cluster["web"].succeed("true")
        shape = cluster._launchers["web"].shape()
        with pytest.raises(UsageError) as caught:
            cluster["wep"]
    assert str(tools / "qemu") in shape.vmm
    assert "-machine microvm" in (tools / "qemu.log").read_text()
    assert (tools / "qemu-img.log").read_text().startswith("create ")
    assert caught.value.hint == "did you mean `web`?"


def test_what_is_so_on_every_host_is_told_first() -> None:
    wants = {"tcg": True, "prefault": True, "disks": True, "nested": False}
    found = [lack.wanted for lack in lacks(BACKENDS["firecracker"], wants)]
    assert found == ["prefault", "tcg"]
    assert list(lacks(BACKENDS["qemu"], wants)) == []
