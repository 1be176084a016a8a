"""The journals and kernel logs of machines in the report of a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import CommandFailed, WaitFailed
from attest.machine.machine import Machine


def notes(cluster: Cluster, failure: Exception) -> list[str]:
    """What the logs add to a failure."""
    cluster.keep_logs(failure)
    return getattr(failure, "__notes__", [])


def test_the_journal_of_the_machine_that_a_failure_is_about(
    debian: Cluster, machine: Machine
) -> None:
    debian["b"].succeed("logger of-no-concern")
    machine.succeed(
        "logger -p user.err it-is-broken; echo segfault-at-0 > /dev/kmsg; journalctl --sync"
    )
    with pytest.raises(CommandFailed) as caught:
        machine.succeed("false")
    shown, files = notes(debian, caught.value)
    assert shown.startswith("  journal of a since the test began:\n  | ")
    assert "it-is-broken" in shown
    assert "segfault-at-0" in shown
    assert "Linux version" not in shown, "of before the test"
    assert len(shown.splitlines()) <= 22
    assert files == f"journals and kernel logs of a, b: {debian.out_dir}"
    whole = (debian.out_dir / "journal-a.log").read_text()
    assert "Linux version" in whole
    assert "it-is-broken" in whole
    assert "segfault-at-0" in (debian.out_dir / "kernel-a.log").read_text()
    assert "of-no-concern" in (debian.out_dir / "journal-b.log").read_text()


def test_what_a_failure_came_of_is_of_concern_too(debian: Cluster, machine: Machine) -> None:
    machine.succeed("logger seen; journalctl --sync")
    cause = WaitFailed("a", "no")
    failure = ExceptionGroup("several", [ValueError("no"), KeyError("no")])
    failure.exceptions[1].__cause__ = cause
    assert notes(debian, failure)[0].startswith("  journal of a ")
    assert notes(debian, ValueError("of no machine"))[0].startswith("journals and kernel logs ")


def test_a_guest_that_stands_still_neither_holds_up_nor_hides_a_failure(
    debian: Cluster, machine: Machine
) -> None:
    machine.succeed("logger still-told; journalctl --sync")
    vmm = debian["b"]._lifecycle.vmm
    vmm.pause()
    try:
        shown, files = notes(debian, CommandFailed("a", "false", 1))
    finally:
        vmm.resume()
    assert "still-told" in shown
    assert files.startswith("journals and kernel logs of a: ")


def failing(out_dir: Path, command: str, *, crash: bool = False) -> None:
    """A test with one machine that runs and one that does not; the one's command fails."""
    nodes = {"one": {"image": "tiny", "memory": 96}, "off": {"image": "tiny"}}
    with Cluster({"nodes": nodes}, out_dir=out_dir, accelerator="tcg") as cluster:
        try:
            cluster["one"].succeed(command)
        finally:
            if crash:
                cluster["one"].crash()


def test_without_systemd_there_is_the_kernels_log(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        failing(tmp_path, "echo broken-disk > /dev/kmsg; false")
    shown, files = caught.value.__notes__
    assert shown.startswith("  kernel log of one since the test began:\n  | ")
    assert "broken-disk" in shown
    assert "Linux version" not in shown
    assert files == f"journals and kernel logs of one: {tmp_path}"
    assert "broken-disk" in (tmp_path / "kernel-one.log").read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["console-one.log", "kernel-one.log"]


def test_machines_that_have_ended_add_nothing_and_are_not_started(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        failing(tmp_path, "false", crash=True)
    assert not hasattr(caught.value, "__notes__")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["console-one.log"]
