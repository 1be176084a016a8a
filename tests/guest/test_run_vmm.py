"""`attest run` with a VMM that is not here or cannot do what it is to, without KVM, as anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def firecracker(tmp_path: Path) -> Path:
    """A Firecracker that knows its version only."""
    path = tmp_path / "my-firecracker"
    path.write_text("#!/bin/sh\necho Firecracker v1.16.1\necho v10.0.0\n")
    path.chmod(0o755)
    return path


def run(
    directory: Path, *options: str, node: dict[str, Any] | None = None, **keys: str
) -> subprocess.CompletedProcess[str]:
    manifest = directory / "test.json"
    node = {"image": "tiny", **(node or {})}
    manifest.write_text(json.dumps({"nodes": {"one": node}, "script": "one.connect()", **keys}))
    command = [sys.executable, "-m", "attest", "run", "--accel", "tcg", *options, str(manifest)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("vmm", ["firecracker", "cloud-hypervisor"])
def test_a_program_that_is_missing(tmp_path: Path, vmm: str) -> None:
    missing = tmp_path / "missing"
    result = run(tmp_path, "--vmm", vmm, f"--{vmm}", str(missing))
    assert result.returncode == 3
    assert f"`{missing}` was not found" in result.stderr
    assert f"/{vmm}/releases" in result.stderr


def test_the_manifest_names_the_vmm_and_its_program_from_its_own_directory(tmp_path: Path) -> None:
    result = run(tmp_path, node={"vmm": "cloud-hypervisor"}, cloud_hypervisor="programs/ch")
    assert result.returncode == 3
    assert f"`{tmp_path}/programs/ch` was not found" in result.stderr


def test_the_option_comes_before_the_manifest(tmp_path: Path, firecracker: Path) -> None:
    result = run(tmp_path, "--vmm", "firecracker", "--firecracker", "absent", firecracker="present")
    assert "`absent` was not found" in result.stderr


def test_firecracker_needs_kvm(tmp_path: Path, firecracker: Path) -> None:
    result = run(tmp_path, "--vmm", "firecracker", "--firecracker", str(firecracker))
    assert result.returncode == 3
    assert "one: Firecracker runs guests with KVM only, and this run is without" in result.stderr
    assert "hint: `attest doctor` says whether KVM works here" in result.stderr


def test_auto_is_qemu_without_kvm(tmp_path: Path, firecracker: Path) -> None:
    result = run(tmp_path, "--vmm", "auto", "--firecracker", str(firecracker))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("node", "said", "able"),
    [
        ({"vmm": "qemu", "balloon": True}, "nodes.one.balloon: QEMU would", "firecracker"),
        ({"prefault": True}, "nodes.one.prefault: Firecracker allocates memory", "qemu"),
        ({"machine": "q35"}, "nodes.one.machine: Firecracker has a machine of its own", "qemu"),
        ({"channel": "serial"}, "nodes.one.channel: Firecracker has no serial port", "qemu"),
    ],
)
def test_what_the_vmm_cannot_do(
    tmp_path: Path, firecracker: Path, node: dict[str, Any], said: str, able: str
) -> None:
    result = run(tmp_path, "--vmm", "firecracker", node=node, firecracker=firecracker.name)
    assert result.returncode == 2
    assert said in result.stderr
    assert f'`vmm = "{able}"`' in result.stderr.partition("hint: ")[2]
