"""`attest doctor` on hosts that lack something: each finding is made to appear, not simulated.

A lack is made in a private user and mount namespace, in which the doctor then runs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ATTEST_QEMU", raising=False)
    return tmp_path


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
    for line in result.stdout.splitlines():
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
        "QEMU", "qemu-img", "KVM", "nested machines", "namespaces", "networks", "images", "disk",
        "huge pages",
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
    program = cache / "qemu"
    program.write_text(f"#!/bin/sh\necho QEMU emulator version {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("ATTEST_QEMU", str(program))
    finding = doctor()[1]["QEMU"]
    assert finding[0] == level
    assert words in finding[1]
    assert version in finding[1]


def test_missing_qemu_img(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = cache / "qemu"
    program.write_text("#!/bin/sh\necho QEMU emulator version 10.0.2\n")
    program.chmod(0o755)
    monkeypatch.setenv("ATTEST_QEMU", str(program))
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
