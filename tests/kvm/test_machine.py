"""One machine with KVM: its commands, its files, its console, and its end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from attest.errors import MachineError
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all
from attest.support.procfs import children
from tests.kvm.conftest import Vmm


def test_it_runs_with_kvm_and_the_vmm_that_was_asked_for(vmm: Vmm, machine: Machine) -> None:
    assert "Hypervisor detected: KVM" in machine.succeed("dmesg")
    assert machine.pid is not None
    (process,) = children(machine.pid)
    program = Path(f"/proc/{process}/cmdline").read_text().partition("\0")[0]
    assert vmm.name in Path(program).name


def test_200_commands(machine: Machine) -> None:
    for number in range(200):
        assert machine.succeed(f"echo {number}") == f"{number}\n"
    machine.fail("false")


def test_20_commands_at_once(machine: Machine) -> None:
    """Each waits for all others, so that none ends where they run one after the other."""
    machine.succeed("mkdir /tmp/met")
    meet = "while [ $(ls /tmp/met | wc -l) -lt 20 ]; do sleep 0.2; done"
    answers = wait_all(
        range(20), lambda n: machine.succeed(f"touch /tmp/met/{n}; {meet}; echo {n}", timeout=300)
    )
    assert answers == [f"{number}\n" for number in range(20)]


def test_files_go_in_and_come_back(machine: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(os.urandom(3 << 20))
    (tree / "script").write_text("#!/bin/sh\necho it runs\n")
    (tree / "script").chmod(0o750)
    (tree / "link").symlink_to("script")
    machine.copy_from_host(tree, "/tmp/tree")
    assert machine.succeed("/tmp/tree/link") == "it runs\n"
    machine.copy_from_machine("/tmp/tree")
    back = machine.out_dir / "tree"
    assert (back / "large").read_bytes() == (tree / "large").read_bytes()
    assert stat.S_IMODE((back / "script").stat().st_mode) == 0o750
    assert os.readlink(back / "link") == "script"


def test_the_console_is_heard(machine: Machine) -> None:
    machine.succeed("echo spoken-$((6 * 7)) > /dev/console")
    machine.wait_for_console_text("spoken-42", timeout=60)
    log = machine.out_dir / "console-machine.log"
    assert "spoken-42" in log.read_text(errors="replace")


@pytest.fixture
def mortal(vmm: Vmm) -> Iterator[Machine]:
    """A machine that the test may end."""
    with vmm.cluster("mortal") as cluster:
        cluster["mortal"].connect()
        yield cluster["mortal"]


def test_it_shuts_down_and_starts_again(mortal: Machine) -> None:
    mortal.succeed("touch /gone")
    mortal.shutdown()
    assert not mortal.booted
    assert mortal._lifecycle.vmm.exit is not None
    assert mortal._lifecycle.vmm.exit.status == 0
    mortal.fail("test -e /gone")


def test_a_kernel_panic_is_reported_as_itself(mortal: Machine) -> None:
    with pytest.raises(MachineError, match="kernel panic") as caught:
        mortal.succeed("echo c > /proc/sysrq-trigger")
    assert "Kernel panic - not syncing" in "\n".join(caught.value.console)
