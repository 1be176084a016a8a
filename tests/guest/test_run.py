"""`attest run` as a user runs it: exit codes, what it prints, and what it leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.leftovers import Host

_TINY = '[nodes.one]\nimage = "tiny"\nmemory = 96\n[nodes.two]\nimage = "tiny"\nmemory = 96\n'


def _write(directory: Path, script: str, nodes: str = _TINY) -> Path:
    manifest = directory / "test.toml"
    manifest.write_text(f"script = '''\n{script}\n'''\n{nodes}")
    return manifest


def _command(manifest: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "attest", "run", "--accel", "tcg", *options, str(manifest)]


def _run(manifest: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(manifest, *options), capture_output=True, text=True, timeout=300, check=False
    )


def test_a_test_that_passes_exits_with_0_and_leaves_its_logs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _run(
        _write(tmp_path, "start_all()\ntwo.connect()\none.succeed('ping -c1 two')"),
        "--cold",
        "-o",
        str(out),
    )
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path.name}: passed" in result.stderr
    assert "attest-stage: init" in (out / "console-one.log").read_text()
    kinds = {json.loads(line)["kind"] for line in (out / "events.jsonl").read_text().splitlines()}
    assert {"run", "stage", "console", "command"} <= kinds


def test_a_test_that_fails_exits_with_1_and_says_why(tmp_path: Path) -> None:
    script = (
        "two.succeed('echo spoken > /dev/ttyS0')\ntwo.wait_for_console_text('spoken')\n"
        "two.succeed('echo out; echo err >&2; exit 3')"
    )
    result = _run(_write(tmp_path, script))
    assert result.returncode == 1
    for words in (
        "\n    two.succeed(",
        "to succeed: exit code 3\n",
        "  stdout:\n  | out\n",
        "  stderr:\n  | err\n",
        "FAILED",
        "  last console lines of two:\n",
        "  | spoken\n",
    ):
        assert result.stderr.count(words) == 1, result.stderr


def test_a_failure_is_short_and_has_what_the_machine_has_logged(tmp_path: Path) -> None:
    script = (
        "one.connect()\n"
        "try:\n"
        "    two.succeed('echo seen-by-kernel > /dev/kmsg; exit 3 # ' + 'x' * 100_000)\n"
        "except Exception:\n"
        "    assert False, 'y' * 3_000_000\n"
    )
    out, report = tmp_path / "out", tmp_path / "report.xml"
    result = _run(_write(tmp_path, script), "--out", str(out), "--junit", str(report))
    assert result.returncode == 1
    assert len(result.stderr) < 20_000
    assert "to succeed: exit code 3\n" in result.stderr
    for text in (result.stderr, report.read_text()):
        assert "  kernel log of two since the test began:\n  | " in text
        assert "seen-by-kernel" in text
        assert f"journals and kernel logs of one, two: {out}" in text
    assert f"the whole of it: {out}/failure.txt" in result.stderr
    assert "y" * 3_000_000 in (out / "failure.txt").read_text()
    assert "seen-by-kernel" in (out / "kernel-two.log").read_text()
    assert "x" * 100_000 in (out / "command-two-1.log").read_text()
    assert (out / "events.jsonl").stat().st_size < 1_000_000


def test_an_assertion_names_its_line(tmp_path: Path) -> None:
    result = _run(_write(tmp_path, "x = 1\nassert x == 2, 'x is one'"))
    assert result.returncode == 1
    assert ">:2: in <module>" in result.stderr
    assert "x is one" in result.stderr


def test_a_bad_manifest_exits_with_2(tmp_path: Path) -> None:
    result = _run(_write(tmp_path, "pass", '[nodes.one]\nimgae = "tiny"\n'))
    assert result.returncode == 2
    assert "nodes.one.imgae" in result.stderr
    assert "did you mean `image`?" in result.stderr


def test_a_script_that_is_no_python_exits_with_2(tmp_path: Path) -> None:
    result = _run(_write(tmp_path, "one.succeed("))
    assert result.returncode == 2
    assert "was never closed" in result.stderr


def test_an_unknown_option_exits_with_2(tmp_path: Path) -> None:
    assert _run(_write(tmp_path, "pass"), "--nonesuch").returncode == 2


def test_an_output_directory_that_cannot_be_exits_with_2(tmp_path: Path) -> None:
    result = _run(_write(tmp_path, "pass"), "--out", "/proc/nonesuch")
    assert result.returncode == 2
    assert "--out: cannot make /proc/nonesuch" in result.stderr


def test_a_host_without_qemu_exits_with_3(tmp_path: Path) -> None:
    environment = {**os.environ, "ATTEST_QEMU": "/nonexistent/qemu"}
    manifest = _write(tmp_path, "one.succeed('true')")
    result = subprocess.run(
        _command(manifest), capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 3
    assert "/nonexistent/qemu" in result.stderr


def test_a_panic_ends_the_test_at_once_whatever_it_waits_for(tmp_path: Path) -> None:
    script = "two.connect()\none.execute('echo c > /proc/sysrq-trigger', check_output=False)\n"
    script += "import time\ntime.sleep(250)"
    result = _run(_write(tmp_path, script))
    assert result.returncode == 1
    assert "one: kernel panic" in result.stderr


def test_the_time_limit_ends_the_test(tmp_path: Path) -> None:
    # The limit is for the script's own doing, and not for a first snapshot on a busy host.
    assert _run(_write(tmp_path, "one.connect(), two.connect()")).returncode == 0
    manifest = tmp_path / "test.toml"
    manifest.write_text(
        "timeout = 8\nscript = '''two.succeed(\"echo still here > /dev/ttyS0\")\n"
        f"one.succeed(\"sleep 1000\")'''\n{_TINY}"
    )
    result = _run(manifest)
    assert result.returncode == 1
    assert "longer than its 8 s" in result.stderr
    assert "  one: ready, sleep 1000" in result.stderr
    assert "  two: ready, nothing is being done in it" in result.stderr
    assert "last console lines of two:\n  | still here\n" in result.stderr


def test_verbose_shows_consoles_and_outputs(tmp_path: Path) -> None:
    script = "one.succeed('echo seen-$((6 * 7))', 'echo spoken-$((6 * 7)) > /dev/console')\n"
    script += "one.succeed('echo begun-$((6 * 7)) >&2; sleep 0.5; echo ended')\n"
    result = _run(_write(tmp_path, f"{script}one.wait_for_console_text('spoken')"), "-v")
    assert "seen-42" in result.stderr
    assert "one: | spoken-42" in result.stderr
    shown = [line[10:].partition("  [")[0] for line in result.stderr.splitlines()]
    begin = shown.index("one:   begun-42")
    command = "one: $ echo begun-$((6 * 7)) >&2; sleep 0.5; echo ended"
    assert shown[begin - 1 : begin + 3] == [command, "one:   begun-42", "one:   ended", command]
    assert shown.count("one:   ended") == 1


def test_a_run_that_is_terminated_ends_in_order_and_leaves_its_events(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    host = Host(scratch)
    script = "one.succeed('true')\nprint('begun', flush=True)\none.succeed('sleep 1000')"
    manifest = _write(tmp_path, script, '[nodes.one]\nimage = "tiny"\nmemory = 96\n')
    with subprocess.Popen(
        _command(manifest, "-o", str(tmp_path / "out")),
        env=host.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "begun\n"
        at_once = _events(tmp_path / "out", "command", "end")
        driver.terminate()
        told = driver.communicate()[1]
    assert [each["text"] for each in at_once] == ["true"]
    assert driver.returncode == 143
    assert f"{tmp_path.name}: interrupted after" in told
    assert _events(tmp_path / "out", "run", "end")[0]["data"]["error"] == "terminated"
    host.await_nothing_left("after SIGTERM")


def _events(out: Path, kind: str, phase: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [each for each in events if each["kind"] == kind and each.get("phase") == phase]


@pytest.mark.timeout(600)
def test_a_driver_killed_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    host = Host(scratch)
    manifest = _write(tmp_path, "wait_all(machines, lambda m: m.succeed('true'))")
    subprocess.run(_command(manifest), env=host.environment, capture_output=True, check=True)
    assert host.left() == []
    moments = random.Random(1)
    duration, kills = 1.0, 0
    while kills < 20:  # a run that ends by itself says how long one takes, and counts for nothing
        moment = moments.random() * duration
        ran = _kill_after(moment, manifest, host.environment)
        host.await_nothing_left(f"after a kill at {moment:.3f} s")
        duration, kills = (ran, kills) if ran else (duration, kills + 1)


def _kill_after(seconds: float, manifest: Path, environment: dict[str, str]) -> float | None:
    """Kill a run; the seconds that it took if it had ended before."""
    begun = time.monotonic()
    driver = subprocess.Popen(
        _command(manifest), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        driver.wait(seconds)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        return None
    return time.monotonic() - begun
