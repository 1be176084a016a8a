"""Nodes of start scripts: what a manifest may say of them, and what the script is given."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import cast

import pytest

from attest.cluster.start_scripts import Report, ScriptNode, StartScripts, machine_name
from attest.errors import ManifestError
from attest.events import EventLog
from attest.manifest import NO_LIMIT, Node, on_hugepages, parse_manifest
from attest.net.cell import Cell
from attest.vmm.qemu.start_script import ScriptSpec, unplugged_names

_INFO = r"""virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56
 \ user.0: index=0,type=user,net=10.0.2.0,restrict=off
virtio-net-pci.1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:01:01
 \ vlan1: index=0,type=vde,sock=/run/vde1.ctl,fd=12
lonely: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:57
card0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:02:01
 \ net: index=0,type=dgram,fd=13 unix
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A start script on the networks 1 and 12."""
    path = tmp_path / "run-web-vm"
    path.write_text('#!/bin/sh\nsock="$QEMU_VDE_SOCKET_12" sock="$QEMU_VDE_SOCKET_1"\n')
    path.chmod(0o755)
    return path


def _node(script: Path, **keys: object) -> Node:
    node = {"start_command": script.name, **keys}
    manifest = parse_manifest({"nodes": {"web": node}, "directory": str(script.parent)})
    return on_hugepages(manifest).nodes["web"]


def test_the_defaults_are_those_of_start_scripts(script: Path) -> None:
    node = _node(script)
    assert node.start_command == str(script)
    assert (node.vlans, node.ready_unit, node.start_timeout) == ([1, 12], "", NO_LIMIT)
    assert not node.hugepages


def test_what_makes_sense_with_a_start_script_can_be_said(script: Path) -> None:
    node = _node(script, vlans=[3], ready_unit="basic.target", start_timeout=60)
    assert (node.vlans, node.ready_unit, node.start_timeout) == ([3], "basic.target", 60)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", "debian"),
        ("memory", 512),
        ("warm_steps", []),
        ("disks", []),
        ("nested", False),
        ("spare_eth0", True),
        ("ipv6", False),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(script: Path, key: str, value: object) -> None:
    with pytest.raises(ManifestError, match=rf"nodes\.web\.{key}: .* the script decides that"):
        _node(script, **{key: value})


def test_a_script_that_cannot_be_run_is_refused(script: Path) -> None:
    script.chmod(0o644)
    with pytest.raises(ManifestError, match=r"start_command: .*/run-web-vm is not executable"):
        _node(script)
    script.unlink()
    with pytest.raises(ManifestError, match=r"start_command: cannot read .*/run-web-vm"):
        _node(script)


@pytest.mark.parametrize(
    ("command", "name"),
    [("/nix/store/x/bin/run-my-web-vm", "my-web"), ("qemu -m 1", "machine"), ("run-vm", "machine")],
)
def test_names_come_from_start_scripts(command: str, name: str) -> None:
    assert machine_name(command) == name


@pytest.fixture
def spec(tmp_path: Path) -> ScriptSpec:
    """What a script is given."""
    return ScriptSpec(
        name="web", command="true", state_dir=tmp_path / "state", shared_dir=tmp_path / "shared",
        log=tmp_path / "log", sockets={1: tmp_path / "vde1.ctl"},
    )  # fmt: skip


def test_the_environment_of_a_script(
    spec: ScriptSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QEMU_OPTS", "-snapshot")
    environment = spec.environment()
    assert environment["TMPDIR"] == str(tmp_path / "state")
    assert environment["SHARED_DIR"] == str(tmp_path / "shared")
    assert environment["USE_TMPDIR"] == "1"
    assert environment["QEMU_VDE_SOCKET_1"] == str(tmp_path / "vde1.ctl")
    assert environment["QEMU_OPTS"] == "-snapshot"


def test_the_arguments_of_a_script(spec: ScriptSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    line = " ".join(spec.arguments(7, 8))
    assert "-device virtio-serial -device virtconsole,chardev=shell" in line
    assert "-chardev socket,id=shell,fd=8" in line
    assert "-serial stdio" in line
    assert {"-no-reboot", "-nographic"} <= set(line.split())
    monkeypatch.setenv("DISPLAY", ":0")
    assert "-nographic" not in spec.arguments(7, 8)


def test_cards_for_a_script_that_makes_none(spec: ScriptSpec) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as frames:
        spec.cards["52:54:00:12:01:01"] = frames  # type: ignore[index]
        line = " ".join(spec.arguments(7, 8))
        assert f"dgram,id=card0,local.type=fd,local.str={frames.fileno()}" in line
    assert "virtio-net-pci,netdev=card0,mac=52:54:00:12:01:01" in line


def test_block_unplugs_all_cards_but_those_on_the_user_network() -> None:
    assert unplugged_names(_INFO) == ["virtio-net-pci.1", "card0"]


def test_all_is_let_go_of_whatever_becomes_of_the_others(tmp_path: Path) -> None:
    machines = StartScripts(
        cast("Cell", None), tmp_path, parse_manifest({"nodes": {"web": {}}}), None,
        Report(EventLog(), tmp_path, lambda _: None, lambda: None),
    )  # fmt: skip
    closed: list[str] = []

    def fail() -> None:
        raise ProcessLookupError

    for name in ("one", "two"):
        resolved = ScriptNode(
            name=name, number=1, command="true", vlans=(), makes_cards=True, sockets={},
            cell=cast("Cell", None), state_dir=tmp_path, shared_dir=tmp_path, scratch=tmp_path,
        )  # fmt: skip
        resolved._joined.callback(fail)
        resolved._joined.callback(closed.append, name)
        machines.nodes[name] = resolved
    machines._switches._undo.callback(closed.append, "switches")
    with pytest.raises(ProcessLookupError):
        machines.close()
    assert sorted(closed) == ["one", "switches", "two"]
