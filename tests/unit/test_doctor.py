"""`attest doctor` on hosts that lack something: each finding is made to appear, not simulated.

A lack is made in a private user and mount namespace, in which the doctor then runs.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from attest.vmm.capabilities import Capabilities
from attest.vmm.registry import BACKENDS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in ("QEMU", "FIRECRACKER", "CLOUD_HYPERVISOR", "JAILER"):
        monkeypatch.delenv(f"ATTEST_{variable}", raising=False)
    return tmp_path


def program(path: Path, *says: str) -> Path:
    """Make an executable that prints these lines, whatever it is asked."""
    path.write_text("#!/bin/sh\n" + "".join(f"echo {line}\n" for line in says))
    path.chmod(0o755)
    return path


def doctor(lack: str = "") -> tuple[int, dict[str, list[str]]]:
    """Run the doctor after a shell line, as root of a user namespace.

    Returns:
        Its exit code, and for each subject its level, its text and its fix.
    """
    namespaces = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    result = subprocess.run(
        [*(namespaces if lack else []), *([lack + '\nexec "$@"', "sh"] if lack else []),
         sys.executable, "-m", "attest", "doctor"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.stderr == ""
    subject, findings = "", dict[str, list[str]]()
    for line in result.stdout.partition("\n\n")[0].splitlines():
        level, (head, _, text) = line[:9].strip(), line[9:].partition(": ")
        if level:
            subject = head
            findings[subject] = [level, text]
        else:
            findings[subject].append(text)
    return result.returncode, findings


def test_a_host_that_was_set_up_has_no_problem(cache: Path) -> None:
    status, findings = doctor()
    assert [name for name, finding in findings.items() if finding[0] == "problem"] == []
    assert status == 0
    assert list(findings) == [
        "QEMU", "qemu-img", "KVM", "Firecracker", "Cloud Hypervisor", "vhost-vsock",
        "nested machines", "namespaces", "networks", "images", "disk", "huge pages",
    ]  # fmt: skip


def test_whatever_is_wrong_comes_with_a_fix(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    status, findings = doctor()
    assert status == 3
    wrong = {name: finding for name, finding in findings.items() if finding[0] != "ok"}
    assert set(wrong) >= {"QEMU", "namespaces", "networks", "images"}
    assert [name for name, finding in wrong.items() if len(finding) != 3] == []


def test_missing_qemu(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    level, text, fix = doctor()[1]["QEMU"]
    assert (level, fix) == ("problem", "apt-get install qemu-system-x86")
    assert text.endswith("was not found")


@pytest.mark.parametrize(
    ("version", "level", "words"),
    [
        ("6.2.0", "problem", "7.2 is the oldest that works"),
        ("7.2.22", "warning", "two to three times as fast"),
        ("10.0.2", "ok", ""),
    ],
)
def test_qemu_version(
    cache: Path, monkeypatch: pytest.MonkeyPatch, version: str, level: str, words: str
) -> None:
    qemu = program(cache / "qemu", f"QEMU emulator version {version}")
    monkeypatch.setenv("ATTEST_QEMU", str(qemu))
    finding = doctor()[1]["QEMU"]
    assert finding[0] == level
    assert words in finding[1]
    assert version in finding[1]


def test_missing_qemu_img(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = program(cache / "qemu", "QEMU emulator version 10.0.2")
    monkeypatch.setenv("ATTEST_QEMU", str(qemu))
    monkeypatch.setenv("PATH", "/nonexistent")
    findings = doctor()[1]
    assert findings["QEMU"][0] == "ok"
    level, text, fix = findings["qemu-img"]
    assert (level, fix) == ("warning", "apt-get install qemu-utils")
    assert "qemu-img" in text


def test_without_kvm_it_says_how_to_get_it(cache: Path) -> None:
    """Here: a /dev/kvm that is there or not, and no image to try it with."""
    level, text, fix = doctor()[1]["KVM"]
    assert level == "warning"
    assert text.endswith("machines run in software emulation")
    named = {"modprobe", "usermod", "attest image build tiny"}
    assert sum(words in fix for words in named) == 1


def test_other_vmms_are_not_needed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    findings = doctor()[1]
    for name, project in (
        ("Firecracker", "firecracker-microvm/firecracker"),
        ("Cloud Hypervisor", "cloud-hypervisor/cloud-hypervisor"),
    ):
        (level, text) = findings[name]
        assert level == "ok"
        assert text.startswith("not installed, and not needed")
        assert f"https://github.com/{project}/releases" in text


def test_vmms_that_lack_kvm(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    firecracker = program(cache / "firecracker", "Firecracker v1.16.1", "v10.0.0")
    cloud_hypervisor = program(cache / "cloud-hypervisor", "cloud-hypervisor v53.0")
    monkeypatch.setenv("PATH", f"{cache}:{os.environ['PATH']}")
    findings = doctor("mount -t tmpfs none /dev; touch /dev/null")[1]
    assert findings["KVM"][0] == "warning"
    level, text, fix = findings["Firecracker"]
    assert (level, fix) == ("warning", "see KVM")
    assert text.startswith(f"1.16.1 ({firecracker}); `jail = true`: ")
    assert text.endswith("root of a user namespace only; it needs KVM")
    text = f"53.0 ({cloud_hypervisor}); it needs KVM"
    assert findings["Cloud Hypervisor"] == ["warning", text, "see KVM"]


def test_a_vmm_that_has_not_been_tested(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(cache / "other", "Firecracker v1.17.0", "v11.0.0")
    monkeypatch.setenv("ATTEST_FIRECRACKER", str(path))
    level, text, _ = doctor()[1]["Firecracker"]
    assert level == "warning"
    assert text.startswith(f"1.17.0 ({path}) has not been tested with attest: 1.15 and 1.16 have;")


@pytest.mark.parametrize(
    ("says", "words", "step"),
    [
        ("Firecracker v1.9.0", "1.15 is the oldest that works", "get a newer one from https://"),
        ("nothing", "--version failed: nothing", "it has to be the VMM"),
        (None, "was not found", "get it from https://"),
    ],
)
def test_a_vmm_that_cannot_be_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, says: str | None, words: str, step: str
) -> None:
    path = cache / "given"
    if says:
        program(path, says, "v10.0.0")
    monkeypatch.setenv("ATTEST_FIRECRACKER", str(path))
    level, text, fix = doctor()[1]["Firecracker"]
    assert level == "warning"
    assert str(path) in text
    assert words in text
    assert fix.startswith(step)


def test_a_vmm_for_another_architecture(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache / "foreign"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    monkeypatch.setenv("ATTEST_CLOUD_HYPERVISOR", str(path))
    level, text, _ = doctor()[1]["Cloud Hypervisor"]
    assert (level, text) == ("warning", f"{path} --version failed: Exec format error")


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        ("mount -t tmpfs none /dev; touch /dev/null", "does not exist"),
        ("mount -t tmpfs none /dev; touch /dev/null /dev/vhost-vsock", "QEMU can have it"),
    ],
)
def test_vhost_vsock(cache: Path, lack: str, said: str) -> None:
    level, text = doctor(lack)[1]["vhost-vsock"]
    assert level == "ok"
    assert said in text


def test_what_each_vmm_can_do() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "attest", "doctor", "--vmms"], capture_output=True, text=True
    )
    assert result.returncode == 0
    grid, _, reasons = result.stdout.partition("\n\n")
    head, *rows = grid.splitlines()
    assert head.split() == list(BACKENDS)
    assert len(rows) == len(Capabilities.__struct_fields__)
    lacks = [
        reason
        for backend in BACKENDS.values()
        for reason in msgspec.structs.astuple(backend.capabilities) if reason
    ]  # fmt: skip
    cells = " ".join(row[len(head) - len(head.lstrip()) :] for row in rows).split()
    assert cells.count("no") == len(lacks)
    assert cells.count("yes") == len(rows) * len(BACKENDS) - len(lacks)
    assert [reason for reason in lacks if f": {reason}\n" not in reasons] == []


def test_no_tun_device(cache: Path) -> None:
    status, findings = doctor("mount -t tmpfs none /dev/net")
    level, text, fix = findings["networks"]
    assert status == 3
    assert level == "problem"
    assert "/dev/net/tun" in text + fix
    assert findings["namespaces"][0] == "ok"


def test_namespaces_forbidden_by_a_kernel_setting(cache: Path) -> None:
    status, findings = doctor("echo 0 > /proc/sys/user/max_net_namespaces")
    level, text, fix = findings["namespaces"]
    assert status == 3
    assert level == "problem"
    assert "unshare" in text
    assert fix == "as root: sysctl -w user.max_net_namespaces=10000"
    assert findings["networks"][0] == "problem"


def test_full_disk(cache: Path) -> None:
    level, text, fix = doctor(f"mount -t tmpfs -o size=1m none {cache}")[1]["disk"]
    assert level == "warning"
    assert text.startswith(f"0.0 GiB free for {cache}/attest")
    assert "attest image gc" in fix


def test_nothing_is_left_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = cache / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    doctor()
    doctor("echo 0 > /proc/sys/user/max_net_namespaces")
    assert os.listdir(scratch) == []
    assert os.listdir(cache) == ["tmp"]
