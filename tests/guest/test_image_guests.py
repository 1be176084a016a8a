"""What the built images are like from inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.machine.machine import Machine

RECIPE = """
base = "tiny"
modules = ["dm-mod"]
cmdline = ["attest.test=yes"]
[files]
"/etc/motd" = { text = "hello", mode = "0600" }
"/bin/greet" = "greet"
"""


def test_debian_boots_without_a_failed_unit(machine: Machine) -> None:
    machine.wait_for_unit("multi-user.target")
    assert machine.succeed("systemctl --failed --no-legend --plain") == ""


@pytest.mark.parametrize(
    "tool", ["bash", "curl", "ip", "journalctl", "nc", "ping", "ps", "udevadm"]
)
def test_debian_has_the_usual_tools(machine: Machine, tool: str) -> None:
    machine.succeed(f"command -v {tool}")


def test_debian_can_load_more_modules(machine: Machine) -> None:
    machine.succeed("modprobe dummy && lsmod | grep -q ^dummy")


def test_debian_belongs_to_root_and_other_users(machine: Machine) -> None:
    assert machine.succeed("stat -c %U / /etc /usr/bin/env").split() == ["root"] * 3
    assert machine.succeed("stat -c %G /etc/shadow").strip() == "shadow"
    assert "nobody" in machine.succeed("setpriv --reuid nobody --clear-groups id -un")


def test_debian_logs_nobody_in_by_password(machine: Machine) -> None:
    assert machine.succeed("passwd --status root").split()[1] == "L"


def test_a_recipes_files_modules_and_parameters_are_in_the_guest(tmp_path: Path) -> None:
    (tmp_path / "greet").write_text("#!/bin/sh\necho good day\n")
    (tmp_path / "greet").chmod(0o755)
    (tmp_path / "own.toml").write_text(RECIPE)
    nodes = {"machine": {"image": str(tmp_path / "own.toml"), "memory": 96}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        assert machine.succeed("cat /etc/motd; stat -c ' %a' /etc/motd") == "hello 600\n"
        assert machine.succeed("greet") == "good day\n"
        assert "dm_mod" in machine.succeed("lsmod")
        assert "attest.test=yes" in machine.succeed("cat /proc/cmdline").split()
