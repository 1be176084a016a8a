"""Guests that were made elsewhere, as `attest run` meets them: cold, warm, archive."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attest.cluster.archive import archive_path, read_archive
from attest.cluster.cluster import Cluster
from attest.host.kvm_probe import KvmProbe, Patience, probe_kvm
from attest.image.described import load_described
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.support.paths import cache_dir
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.tsc import tsc_khz
from tests.guest.elsewhere import built, describe_debian

_TALK = """
start_all()
for machine, other in ((one, two), (two, one)):
    for family in (4, 6):
        machine.succeed(f"ping -{family} -c1 -W5 {other.name}")
"""

_CARDS = """
assert "attest." not in one.succeed("cat /proc/cmdline")
one.fail("ls /run/attest")
assert "192.168.1" not in one.succeed("ip address show eth0")
for address in ("192.168.1.2", "2001:db8:1::2"):
    assert " dev eth1 " in one.succeed(f"ip route get {address}")
    one.succeed(f"getent ahosts two | grep -F '{address} '")
unit = two.systemctl("show -p ExecStart,MainPID,ActiveState attest-agent.service")[1]
assert "/usr/local/bin/attest-agent" in unit and "ActiveState=active" in unit, unit
one.shutdown()
two.execute("poweroff", check_return=False)
two.wait_for_shutdown()
"""

_LASTS = """
size = int(one.succeed("df -m / | tail -n 1").split()[1])
assert 60 < size < 100, size
one.succeed("echo kept > /root/note; sync; echo lost > /root/other")
one.crash()
one.start()
assert one.succeed("cat /root/note") == "kept\\n"
assert one.execute("cat /root/other 2>/dev/null")[1] == ""
snapshot = one.snapshot("then")
one.succeed("rm /root/note; sync")
one.restore(snapshot)
one.succeed("cat /root/note")
two.fail("ls /root/note")
"""


class User:
    """A user of attest: with the images that there are, and snapshots of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        cache = directory / "cache" / "attest"
        cache.mkdir(parents=True)
        (cache / "images").symlink_to(cache_dir() / "images")
        self._environment = {**os.environ, "XDG_CACHE_HOME": str(directory / "cache")}

    def run(self, script: str, node: dict[str, Any], *options: str) -> tuple[int, str]:
        """Run a test with two such nodes; its exit code and what it prints."""
        manifest = self._directory / "test.json"
        manifest.write_text(json.dumps({"script": script, "nodes": {"one": node, "two": node}}))
        result = self._attest("run", "--accel", "tcg", *options, str(manifest))
        return result.returncode, result.stderr

    def show(self, image: Path) -> str:
        """What `attest image show` prints."""
        return self._attest("image", "show", str(image)).stdout

    def _attest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "attest", *arguments],
            env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def _nixos(image: str) -> dict[str, Any]:
    return {"image": image, "memory": 256, "spare_eth0": True, "ipv6": True}


def test_the_files_of_a_built_image_are_an_image(user: User, tmp_path: Path) -> None:
    tiny = built("tiny")
    description = {
        "arch": tiny.arch, "kernel": str(tiny.kernel), "vmlinux": str(tiny.vmlinux),
        "initrd": str(tiny.initrd), "root": None, "init": "agent", "own_initrd": False,
    }  # fmt: skip
    (tmp_path / "small.json").write_text(json.dumps(description))
    node = {**_nixos("small.json"), "memory": 96}
    for options, boots in (["--cold"], 0), ([], 1), ([], 0):
        code, told = user.run(_TALK, node, *options)
        assert code == 0, told
        assert told.count("save small for later starts") == boots


@pytest.mark.timeout(600)
def test_a_guest_with_an_initrd_and_a_unit_of_its_own(user: User, tmp_path: Path) -> None:
    path = describe_debian(tmp_path)
    for options, boots in (["--cold"], 0), ([], 1), ([], 0):
        code, told = user.run(_TALK + _CARDS, _nixos(path.name), *options)
        assert code == 0, told
        assert told.count("save elsewhere for later starts") == boots
    shown = user.show(path)
    assert f"initrd      {tmp_path}/initrd" in shown
    assert f"root        {built('debian').root}" in shown


@pytest.mark.timeout(600)
def test_its_root_lasts_on_a_disk_that_it_finds_by_its_label(user: User, tmp_path: Path) -> None:
    path = describe_debian(tmp_path, root_label="state")
    node = {**_nixos(path.name), "root_size": 100}
    for options in ["--cold"], []:
        code, told = user.run(_LASTS, node, *options)
        assert code == 0, told


_TREE = {
    "sbin/init": "#!/bin/sh\n/run/attest/attest-agent &\nwhile :; do sleep 1000; done\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
}


def test_a_root_that_is_not_ext4_lasts_under_an_overlay(user: User, tmp_path: Path) -> None:
    recipe = tmp_path / "loads.toml"
    recipe.write_text('base = "tiny"\nmodules = ["crc32c_generic", "erofs", "overlay"]\n')
    image = ImageStore().build(load_recipe(str(recipe)))
    tree = tmp_path / "tree"
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    for file, text in _TREE.items():
        (tree / file).write_text(text)
        (tree / file).chmod(0o755)
    with image.initrd.open("rb") as archive:
        command = ["cpio", "--quiet", "-id", "bin/*", "usr/bin/*", "sbin/*", "usr/sbin/*"]
        subprocess.run(command, stdin=archive, cwd=tree, check=True)
    subprocess.run(["mkfs.erofs", "--quiet", tmp_path / "root.erofs", tree], check=True)
    description = {
        "arch": image.arch, "kernel": str(image.kernel), "initrd": str(image.initrd),
        "root": "root.erofs", "init": "systemd", "own_initrd": False,
    }  # fmt: skip
    (tmp_path / "small.json").write_text(json.dumps(description))
    node = {"image": "small.json", "memory": 128, "root_size": 100, "ready_unit": ""}
    code, told = user.run(_LASTS, node, "--cold")
    assert code == 0, told


@pytest.mark.timeout(600)
def test_machines_of_such_an_image_are_kept(user: User, tmp_path: Path) -> None:
    path = describe_debian(tmp_path)
    out = tmp_path / "out"
    script = "start_all()\none.succeed('echo remembered >/note')\ntwo.connect()\none.fail('true')"
    code, told = user.run(script, _nixos(path.name), "--snapshot-on-failure", "-o", str(out))
    assert (code, "the machines are kept" in told) == (1, True), told
    archive = read_archive(archive_path(out))
    with Cluster(
        archive.manifest, accelerator=archive.accelerator, cold=True, archive=archive
    ) as cluster:
        cluster.go_back(archive.saved(), "the failure")
        assert cluster["one"].succeed("cat /note") == "remembered\n"
        cluster["one"].succeed("ping -4 -c1 -W5 two", "ping -6 -c1 -W5 two")


_EMULATES = """#!/bin/bash
arguments=()
for argument; do
    case $argument in
        kvm) argument=tcg ;;
        host) argument=max ;;
        # With KVM a guest learns the rate of its counter from the host.
        console=*) argument="$argument tsc=reliable tsc_early_khz=KHZ" ;;
    esac
    arguments+=("$argument")
done
exec QEMU "${arguments[@]}"
"""


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A device and a QEMU that seem to have KVM; the device."""
    qemu, real = tmp_path / "qemu", find_qemu().path
    emulates = _EMULATES.replace("QEMU", shlex.quote(str(real))).replace("KHZ", str(tsc_khz()))
    qemu.write_text(emulates)
    qemu.chmod(0o755)
    (tmp_path / "kvm").touch()
    monkeypatch.setenv("ATTEST_QEMU", str(qemu))
    find_qemu.cache_clear()
    yield tmp_path / "kvm"
    find_qemu.cache_clear()


def test_the_probe_of_kvm_sees_such_a_kernel_run(
    kvm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = load_described(str(describe_debian(tmp_path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    probe = probe_kvm(image=image, device=kvm, patience=Patience(quiet=100))
    assert probe == KvmProbe(True, "a guest booted with it")
