"""attest in builds by Nix, each in Nix's sandbox: runs of tests, and snapshots as outputs."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from tests.nix.isolated_nix import Nix

TUN = 'nix.settings.extra-sandbox-paths = [ "/dev/net/tun" ];'
BOOTED = "attest-stage: init"
"""What a console has when its machine has booted."""


def booted(out: Path) -> list[bool]:
    """Of a run's two machines, whether each has booted."""
    return [BOOTED in (out / f"console-{name}.log").read_text() for name in ("one", "two")]


def test_a_test_runs_in_a_build(nix: Nix) -> None:
    build = nix.build("ping")
    assert "one: $ ping -c 1 two" in build.log
    assert "pair: passed" in build.log
    assert not re.search(r"^  one +(off|ready)", build.log, re.MULTILINE), "a table for nobody"
    assert (build.made / "events.jsonl").stat().st_size


def test_a_test_that_fails_fails_its_build(nix: Nix) -> None:
    build = nix.build("failing")
    assert build.out is None
    for words in ("one.succeed(", "exit code 3", "stderr:\n  | why", "pair: FAILED"):
        assert words in build.log


def test_a_machine_starts_from_a_snapshot_that_a_derivation_has_made(nix: Nix, qemu: str) -> None:
    given = {"qemu": qemu} if qemu else {}
    lent = ["/dev/net/tun", *([str(Path(qemu).parents[1])] if qemu else [])]
    snapshots = nix.build("snapshots", lent=lent, arguments=given)
    (entry,) = snapshots.made.iterdir()
    status = (entry / "memory").stat()
    assert stat.S_IMODE(status.st_mode) == 0o444
    assert status.st_mtime == 1
    assert "the script ran" not in snapshots.log
    build = nix.build("fromSnapshots", lent=lent, arguments=given)
    assert build.log.count(f"it starts from the snapshot in {snapshots.made}") == 1
    assert booted(build.made) == [False, False]
    assert "pair: passed" in build.log


def test_a_machine_that_no_snapshot_fits_boots(nix: Nix) -> None:
    snapshots = nix.build("snapshots").made
    build = nix.build("fromOthers")
    (warning,) = re.findall(r"warning: (.*)", build.log)
    assert warning.startswith(f"it boots: the snapshot in {snapshots} was made with VMM QEMU ")
    assert ", this is QEMU " in warning
    assert "other-qemu" in warning
    assert warning.endswith("; with memory 96 MiB, this is 100 MiB")
    assert booted(build.made) == [True, True]
    assert "once, for a snapshot" not in build.log
    assert "pair: passed" in build.log


def test_a_machine_whose_snapshot_does_not_restore_boots(nix: Nix) -> None:
    build = nix.build("fromSpoilt")
    (warning,) = re.findall(r"warning: (.*)", build.log)
    assert "does not restore, so it boots: " in warning
    assert booted(build.made) == [True, True]
    assert "pair: passed" in build.log


def test_without_the_tap_device_the_settings_are_told(nix: Nix) -> None:
    build = nix.build("withoutTap", lent=[])
    assert build.out is None
    assert "cannot make a tap interface" in build.log
    assert TUN in build.log


def test_machines_on_no_network_need_no_device(nix: Nix) -> None:
    build = nix.build("alone", lent=[])
    assert "pair: passed" in build.log
    assert build.made.is_dir()


def test_without_kvm_the_system_feature_is_told(nix: Nix) -> None:
    build = nix.build("kvm")
    assert build.out is None
    assert "/dev/kvm does not exist" in build.log
    assert 'requiredSystemFeatures = [ "kvm" ];' in build.log
    assert "nix.settings.system-features" in build.log


def test_huge_pages_are_counted_without_sys(nix: Nix) -> None:
    build = nix.build("hugepages")
    assert build.out is None
    assert re.search(r"huge pages: 1048576 pages of 2 MiB are needed, \d+ are free", build.log)
