"""The machines of a failed test: kept by `attest run`, brought back by `attest resume`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attest.cluster.archive import archive_path, read_archive
from attest.cluster.cluster import Cluster
from attest.support.paths import cache_dir
from tests.guest.terminal import Terminal

_TINY = 'image = "tiny"\nmemory = 96\n'

_FAILS = """
two.connect()
one.succeed("echo remembered > /note; sleep 54321 >/dev/null 2>&1 &")
one.succeed("echo first-block | dd of=/dev/vda conv=notrunc; sync")
cluster.clone(one.snapshot("then"), ["copy"])[0].connect()
one.succeed("hostname renamed")
one.succeed("echo second-block | dd of=/dev/vda bs=512 seek=1 conv=notrunc; sync")
assert False, "on purpose"
"""


class Host:
    """A user's host: with the images and snapshots that there are, and runs of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        cache = directory / "cache" / "attest"
        cache.mkdir(parents=True)
        for shared in ("images", "snapshots"):
            (cache_dir() / shared).mkdir(parents=True, exist_ok=True)
            (cache / shared).symlink_to(cache_dir() / shared)
        self.runs = cache / "runs"
        self.env = {**os.environ, "XDG_CACHE_HOME": str(directory / "cache")}
        self.env.pop("CI", None)

    def test(self, name: str, script: str, **nodes: str) -> Path:
        manifest = self._directory / f"{name}.toml"
        tables = "".join(f"[nodes.{node}]\n{_TINY}{more}\n" for node, more in nodes.items())
        manifest.write_text(f"script = '''\n{script}\n'''\n{tables}")
        return manifest

    def run(self, manifest: Path, *options: str) -> str:
        """Run a test that fails, with nobody at the terminal; what it prints."""
        result = subprocess.run(
            [sys.executable, "-m", "attest", "run", "--accel", "tcg", *options, manifest],
            env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 1, result.stderr
        return result.stderr

    def watch(self, manifest: Path, *options: str, **env: str) -> Terminal:
        """Run a test at a terminal."""
        return Terminal("run", "--accel", "tcg", *options, manifest, env={**self.env, **env})

    def resume(self, *arguments: str, **env: str) -> Terminal:
        return Terminal("resume", *arguments, env={**self.env, **env})

    def kept(self) -> list[str]:
        """The runs with a checkpoint."""
        return [each.parent.name for each in self.runs.glob("*/checkpoint*")]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def _record(run: Path) -> Any:
    return json.loads((run / "checkpoint" / "checkpoint.json").read_bytes())


def _look(terminal: Terminal, command: str) -> str:
    """Run a command in a shell; what it prints."""
    terminal.type(f"{command}; echo end-$((40 + 2))\r")
    terminal.expect("\r\n")  # the echo of what was typed ends before the answer begins
    output = terminal.expect("end-42")
    terminal.expect("# ")
    return output


def _blocks(terminal: Terminal) -> list[str]:
    """What the script has written to the disk."""
    return re.findall(r"\w+-block", _look(terminal, "head -c 1024 /dev/vda | tr -d '\\0'"))


def test_the_machines_of_a_failed_test_come_back_as_often_as_one_likes(host: Host) -> None:
    test = host.test("whole", _FAILS, one="disks = [{size = 64}]", two="", never="")
    told = host.run(test, "--snapshot-on-failure")
    (name,) = host.kept() or [told]
    assert re.search(rf"the machines are kept \([1-9]\d* MiB\): attest resume {name}\n", told)
    assert not list(host.runs.glob("*/*.part"))
    for _ in range(2):
        with host.resume("whole") as terminal:
            table = terminal.expect("machine: ")
            for line in (r"one +running", r"copy +running", r"two +running", r"never +not started"):
                assert re.search(line, table)
            terminal.type("one\r")
            terminal.expect("# ")
            assert "remembered" in _look(terminal, "cat /note; echo spoilt > /note")
            assert "54321" in _look(terminal, "ps | grep '[s]leep 54321'; killall sleep")
            assert "renamed" in _look(terminal, "hostname")  # as the test had left it
            assert _blocks(terminal) == ["first-block", "second-block"]
            _look(terminal, "dd if=/dev/zero of=/dev/vda bs=64k count=1; sync")
            assert "1 packets received" in _look(terminal, "ping -c1 -W5 two")
            assert "1 packets received" in _look(terminal, "ping -c1 -W5 copy")
            terminal.type("exit\r")
            terminal.expect("machine: ")
            terminal.type("copy\r")
            terminal.expect("# ")
            assert "copy" in _look(terminal, "hostname")
            assert _blocks(terminal) == ["first-block"]
            terminal.type("exit\r")
            terminal.expect("machine: ")
            terminal.type("never\r")
            terminal.expect("never does not run: not started")
            terminal.expect("machine: ")
            terminal.type("\x04")
            assert terminal.rest()[1] == 0
    with host.resume() as terminal:  # the last one, without its name
        terminal.expect("machine: ")
        terminal.type("exit\r")
        assert terminal.rest()[1] == 0


def test_roots_on_disks_come_back_of_machines_that_are_off_too(host: Host, tmp_path: Path) -> None:
    script = """
for machine in (on, off):
    machine.succeed("echo kept > /root/note")
off.shutdown()
on.fail("true")
"""
    test = tmp_path / "roots.toml"
    test.write_text(f"script = '''{script}'''\n[nodes.on]\n[nodes.off]\n")
    host.run(test, "--snapshot-on-failure")
    (name,) = host.kept()
    archive = read_archive(archive_path(host.runs / name))
    for _ in range(2):
        with Cluster(
            archive.manifest, accelerator=archive.accelerator, cold=True, archive=archive
        ) as cluster:
            cluster.go_back(archive.saved(), "the failure")
            for machine in cluster["on"], cluster["off"]:
                assert machine.succeed("cat /root/note; rm /root/note; sync") == "kept\n"


def test_a_machine_that_panicked_is_off_and_the_other_one_is_there(host: Host) -> None:
    script = """
two.succeed("echo still here > /note")
one.execute("echo c > /proc/sysrq-trigger", check_output=False)
two.succeed("sleep 1000")
"""
    host.run(host.test("panic", script, one="", two=""), "--snapshot-on-failure")
    (name,) = host.kept()
    assert "kernel panic" in _record(host.runs / name)["machines"]["one"]["absence"]
    with host.resume(name, "one") as terminal:
        output, code = terminal.rest()
    assert "one was not running when the test failed: kernel panic" in output
    assert code == 2
    with host.resume(name) as terminal:  # there is one: no need to ask
        terminal.expect("# ")
        assert "still here" in _look(terminal, "cat /note")
        terminal.type("exit 5\r")
        assert terminal.rest()[1] == 5


def test_what_does_not_fit_this_host_any_more_is_refused(host: Host, tmp_path: Path) -> None:
    out, image = tmp_path / "out", tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    test = host.test("other", "one.fail('true')", one=f"disks = [{{image = '{image}'}}]")
    told = host.run(test, "--snapshot-on-failure", "-o", str(out))
    assert f"attest resume {out}" in told
    other = tmp_path / "qemu"
    other.write_text("#!/bin/sh\necho QEMU emulator version 9.1.2\n")
    other.chmod(0o755)
    with host.resume(str(out), ATTEST_QEMU=str(other)) as terminal:
        output, code = terminal.rest()
    assert code == 3
    assert "these machines come back on the VMM only that they ran on" in output
    assert f"QEMU 9.1.2 ({other})" in output.replace("\r\n", "")
    image.write_bytes(b"changed" + bytes(1 << 20))
    with host.resume(str(out)) as terminal:
        output, code = terminal.rest()
    assert code == 2
    assert f"{image}, which a disk begins as, was changed since" in output.replace("\r\n", "")
    host.run(host.test("other", "one.fail('true')", one=""), "-o", str(out))
    assert not (out / "checkpoint").exists(), "that of the run before has gone"


def test_a_machine_that_boots_anew_is_still_itself(host: Host, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = "two.connect(); one.fail('cat /etc/machine-id; uname -n; ip -4 -o address show eth0')"
    test = host.test("anew", script, one="files = { '/srv/app' = 'app' }\n", two="")
    (test.parent / "app").write_text("brought")
    told = host.run(test, "--snapshot-on-failure", "-o", str(out))
    (stdout,) = re.findall(r"  stdout:\n((?:  \| .*\n)+)", told)
    before = re.findall(r"  \| (.*)", stdout)
    kept = read_archive(archive_path(out))
    with Cluster(kept.manifest, accelerator=kept.accelerator, cold=True, archive=kept) as cluster:
        now = cluster["one"].succeed("cat /etc/machine-id; uname -n; ip -4 -o address show eth0")
        assert cluster["one"].succeed("cat /srv/app") == "brought"
    assert now.splitlines() == before


@pytest.mark.parametrize(("answer", "kept"), [("y\r", True), ("n\r", False), ("\x04", False)])
def test_a_terminal_is_asked(host: Host, answer: str, kept: bool) -> None:
    with host.watch(host.test("asked", "one.fail('true')", one="")) as terminal:
        terminal.expect("was required to fail")
        terminal.expect("keep the machines as they are now? [y/N]: ")
        terminal.type(answer)
        output, code = terminal.rest()
    assert code == 1
    assert ("attest resume asked-" in output) is kept
    assert len(host.kept()) == kept


def test_nobody_is_asked_who_is_not_there_or_does_not_want_it(host: Host) -> None:
    test = host.test("quiet", "one.fail('true')", one="")
    with host.watch(test, "--no-snapshot-on-failure") as terminal:
        assert "keep the machines" not in terminal.rest()[0]
    with host.watch(test, CI="true") as terminal:
        assert "keep the machines" not in terminal.rest()[0]
    assert "keep" not in host.run(test)
    assert host.kept() == []


def test_where_no_machine_ran_there_is_nothing_to_keep(host: Host) -> None:
    test = host.test("early", "assert False", one="")
    assert "could not be kept: none was running" in host.run(test, "--snapshot-on-failure")
    assert host.kept() == []


def test_without_a_terminal_nothing_is_resumed(host: Host) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "attest", "resume"],
        env=host.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "needs a terminal" in result.stderr
