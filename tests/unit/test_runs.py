"""`attest run` of scripts that need no guest: how they end, and what they do to the run itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.leftovers import Host

_MANIFEST = '[nodes.web]\nstart_command = "run-web-vm"\nvlans = []\n'
"""A machine of a start script, which needs no image, and is not started."""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    directory = tmp_path / "trial"
    directory.mkdir()
    start = directory / "run-web-vm"
    start.write_text("#!/bin/sh\nexit 1\n")
    start.chmod(0o755)
    path = directory / "test.toml"
    path.write_text(f'script = "test.py"\n{_MANIFEST}')
    return path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Host(scratch)


def _command(manifest: Path, *options: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "attest", "run", *options, manifest]


def _run(
    manifest: Path, script: str, *options: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    (manifest.parent / "test.py").write_text(script)
    return subprocess.run(
        _command(manifest, *options), capture_output=True, text=True, check=False, timeout=60,
        env=env,
    )  # fmt: skip


def test_a_second_run_does_not_write_into_a_directory_that_one_has(
    manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (manifest.parent / "test.py").write_text("print(input('begun\\n'))")
    with subprocess.Popen(
        _command(manifest, "-o", out), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "begun\n"
        second = _run(manifest, "print('second')", "-o", out)
        first.communicate("go on\n", 30)
    assert (first.returncode, second.returncode) == (0, 2)
    assert f"{out} is in use by another run" in second.stderr
    assert second.stdout == ""
    assert _run(manifest, "print('third')", "-o", out).returncode == 0


def test_what_a_run_before_has_left_goes_and_nothing_else(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    old = ["console-web.log", "journal-web.log", "kernel-web.log", "command-web-1.log"]
    own = ["kernel-6.1.log", "command-line.log", "journal-of-mine.log"]
    for name in [*old, *own, "failure.txt"]:
        (out / name).touch()
    assert _run(manifest, "log.info('new')", "-o", out).returncode == 0
    assert sorted(each.name for each in out.iterdir()) == sorted([*own, "events.jsonl"])


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("import sys; sys.exit(0)", 0, "trial: passed in"),
        ("raise SystemExit", 0, "trial: passed in"),
        ("import os, sys; sys.path.remove(os.path.dirname(__file__))", 0, "trial: passed in"),
        ("import sys\nwith subtest('s'): sys.exit()", 0, "trial: passed in"),
        ("import sys; sys.exit(1)", 1, "SystemExit: 1"),
        ("import sys; sys.exit('no leader')", 1, "SystemExit: no leader"),
        ("import sys; wait_all([1, 2], lambda _: sys.exit(0))", 0, "trial: passed in"),
        ("os._exit(0)", 1, "os._exit(0) would end attest without a result"),
        ("if os.fork() == 0:\n    os._exit(7)\nassert os.wait()[1] == 7 << 8", 0, "passed in"),
        (
            "import threading\n"
            "thread = threading.Thread(target=lambda: [][0])\n"
            "thread.start()\nthread.join()",
            0,
            "warning: a thread of the script has failed; the test goes on:",
        ),
        ("import sys; wait_all([1], lambda _: sys.exit(2))", 1, "SystemExit: 2"),
        ("import asyncio; raise asyncio.CancelledError", 1, "CancelledError"),
        ("raise BaseExceptionGroup('several', [KeyboardInterrupt()])", 1, "several"),
        ("raise KeyboardInterrupt", 130, "trial: interrupted after"),
        ("raise EOFError", 1, "EOFError"),
    ],
)
def test_a_script_ends_as_it_says(manifest: Path, script: str, code: int, said: str) -> None:
    ended = _run(manifest, script)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    verdicts = [line for line in ended.stderr.splitlines() if line.startswith("trial: ")]
    assert len(verdicts) == 1
    assert "/cli/" not in ended.stderr
    assert ("failed, " in ended.stderr) == (code != 0 and "subtest" in script)


def test_a_part_that_ends_the_script_well_hides_no_failure_of_another(manifest: Path) -> None:
    script = """
import sys, time
def part(number):
    if number == 1:
        sys.exit(0)
    time.sleep(0.1)
    assert number == 1
wait_all([1, 2], part)
"""
    ended = _run(manifest, script)
    assert ended.returncode == 1
    assert "AssertionError" in ended.stderr


_FORKS = """
import os
first = os.fork()
if first == 0:
    for use in (lambda: web.succeed("true"), start_all, lambda: web.booted, cluster.close):
        try:
            print(use(), flush=True)
        except Exception as error:
            print(error, flush=True)
    {how}
print(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
print(web.booted, cluster["web"] is web)
"""


@pytest.mark.parametrize(
    ("how", "code"), [("raise ValueError('here')", 1), ("exit(3)", 3), ("exit()", 0)]
)
def test_a_fork_of_the_script_leaves_the_run_to_it(
    manifest: Path, host: Host, how: str, code: int, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = _run(manifest, _FORKS.format(how=how), "-o", out, env=host.environment)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == lines[2]
    assert lines[0] == "web: this process is a fork of the test's, which alone has its machines"
    assert "and this is a fork of that" in lines[1]
    assert lines[3:] == ["None", str(code), "False True"]
    assert ended.stderr.count("trial: ") == 1
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [each.get("phase") for each in events if each["kind"] == "run"] == ["begin", "end"]
    host.await_nothing_left("after a fork")


def test_multiprocessing_works_in_a_script(manifest: Path) -> None:
    script = """
import multiprocessing, time
fork = multiprocessing.get_context("fork")
def square(number):
    return number * number
with fork.Pool(2) as pool:
    assert pool.map(square, [2, 3]) == [4, 9]
for _ in range(5):
    process = fork.Process(target=lambda: time.sleep(100))
    process.start()
    process.terminate()
    process.join()
    assert process.exitcode == -15, process.exitcode
"""
    ended = _run(manifest, script)
    assert ended.returncode == 0, ended.stderr


def test_a_cell_ends_with_its_driver_and_not_with_the_drivers_forks(
    manifest: Path, host: Host
) -> None:
    script = (
        "import os, sys\nif os.fork() == 0: os.read(0, 1); os._exit(0)\n"
        "print(cluster._scratch.path, flush=True)\nsys.stdin.read()"
    )
    (manifest.parent / "test.py").write_text(script)
    with subprocess.Popen(
        _command(manifest), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=host.environment,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        scratch = Path(driver.stdout.readline().strip())
        assert scratch.is_dir()
        driver.kill()
        driver.wait()
        while scratch.exists():  # or the test's time limit
            os.sched_yield()
        assert driver.stdin is not None
        driver.stdin.close()
    host.await_nothing_left("after a kill")


_STUCK = """
import signal, sys
from pathlib import Path
from attest.errors import Terminated
from attest.script.watchdog import Watchdog

def terminate(*_):
    raise Terminated

signal.signal(signal.SIGTERM, terminate)
signal.signal(signal.SIGINT, signal.default_int_handler)
with Watchdog("trial", Path("/logs"), grace=0.2).watch("test.py", float(sys.argv[1])):
    exec(compile(sys.argv[2], "test.py", "exec"), {})
"""

_IN_C = "def busy():\n  sum(range(10**12))\nbusy()"
_CATCHING = """
while True:
    try:
        print("begun", flush=True)
        while True:
            pass
    except BaseException:
        pass
"""


def test_the_time_limit_ends_a_call_that_nothing_interrupts() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _STUCK, "0.1", _IN_C], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.split("\n") == [
        "",
        "test.py:2: the script is here",
        "the test took longer than its 0.1 s, and its script could not be ended",
        "trial: FAILED, and was killed; logs: /logs",
        "",
    ]


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")]
)
def test_a_signal_ends_a_script_that_goes_on(number: signal.Signals, why: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STUCK, "1000", _CATCHING],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as stuck:  # fmt: skip
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "begun\n"
        stuck.send_signal(number)
        said = stuck.communicate(timeout=60)[1]
    assert stuck.returncode == -signal.SIGKILL
    assert said == f"trial: {why}, and killed: its script did not end within 0.2 s; logs: /logs\n"
