"""The Python console of a run: instead of its script, after a failure, and at a breakpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.terminal import Terminal

_MANIFEST = """\
script = "test.py"
[nodes.machine]
image = "tiny"
memory = 96
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "test.toml"
    file.write_text(_MANIFEST)
    (tmp_path / "test.py").write_text("machine.succeed('echo from-the-script')\n")
    return file


def _plain(manifest: Path) -> dict[str, str]:
    """An environment for Python's own console: what shadows ptpython has no console."""
    (manifest.parent / "shadow").mkdir()
    (manifest.parent / "shadow" / "ptpython.py").touch()
    return {**os.environ, "PYTHONPATH": str(manifest.parent / "shadow"), "TERM": "dumb"}


def _run(manifest: Path, *options: str, env: dict[str, str] | None = None) -> Terminal:
    return Terminal(
        "run", "--accel", "tcg", "-o", manifest.parent / "out", *options, manifest, env=env
    )


def test_the_console_has_the_names_of_a_script(manifest: Path) -> None:
    with _run(manifest, "-I", env=_plain(manifest)) as terminal:
        terminal.expect(">>> ")
        terminal.type("machine.succeed('echo from-the-guest').strip().upper()\r")
        terminal.expect("FROM-THE-GUEST")
        terminal.type("machine.succeed('exit 5')\r")
        assert "Traceback" not in terminal.expect("exit code 5")
        terminal.type("test_script()\r")
        terminal.expect("echo from-the-script")
        terminal.type("help(machine.wait_for_unit)\r")
        terminal.expect("Wait until a systemd unit is active")
        terminal.type("machine.wait_until_suc\t'true') == ''\r")  # completed, parenthesis and all
        terminal.expect("True")
        terminal.expect(">>> ")
        terminal.type("\x04")
        rest, status = terminal.rest()
        assert status == 0
        assert "ended in" in rest


def test_again_runs_the_script_as_it_is_now_with_the_machines_as_they_were(
    manifest: Path,
) -> None:
    """Those that ran go back, those that did not are as if they never had; clones are gone."""
    nodes = '[nodes.off]\nimage = "tiny"\nmemory = 96\ndisks = [{ size = 8 }]\n'
    manifest.write_text(_MANIFEST + nodes)
    disk = "$(ls /dev/vd* | tail -n 1)"
    script = manifest.parent / "test.py"
    script.write_text(
        "import helper\n"
        "assert not off.booted\n"
        "machine.succeed('test -e /run/before', 'test ! -e /run/in-script; touch /run/in-script')\n"
        f"off.succeed('! grep -q spoilt {disk}', 'echo spoilt >{disk}; sync')\n"
        "from attest import clone\n"
        "clone(off.snapshot('now'), ['twin'])[0].succeed('true')\n"
        "print('value', helper.value * 11)\n"
    )
    (manifest.parent / "helper.py").write_text("value = 1\n")
    env = _plain(manifest)
    env["PYTHONPATH"] += f":{manifest.parent}:{os.environ.get('PYTHONPATH', '')}"
    with _run(manifest, "-I", env=env) as terminal:
        terminal.expect(">>> ")
        terminal.type("machine.succeed('touch /run/before')\r")
        terminal.expect(">>> ")
        terminal.type("test_script()\r")
        terminal.expect("value 11")
        for value in (2, 3):
            (manifest.parent / "helper.py").write_text(f"value = {value}  # changed\n")
            terminal.type("again()\r")
            terminal.expect(f"value {value * 11}")
            terminal.expect("again → first answer ")
        script.write_text("machine.succeed(\n")
        terminal.type("again()\r")
        terminal.expect("was never closed")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert terminal.rest()[1] == 0


def test_ptpython_is_taken_where_it_is_installed(manifest: Path) -> None:
    env = {**os.environ, "TERM": "xterm"}
    with _run(manifest, "-I", env=env) as terminal:
        terminal.expect("Ctrl-D ends the machines")
        terminal.type("machine.succeed('echo $((6 * 7000))')\r")
        terminal.expect("42000")
        terminal.type("exit()\r")
        assert terminal.rest()[1] == 0


def test_a_shell_is_a_terminal_and_the_console_another(manifest: Path) -> None:
    with _run(manifest, "-I", env=_plain(manifest)) as terminal:
        terminal.expect(">>> ")
        terminal.type("machine.shell_interact()\r")
        terminal.expect("# ")
        terminal.type("tty; stty size\r")
        terminal.expect("/dev/pts/")
        terminal.expect("33 111")
        terminal.type("exit\r")
        terminal.expect(">>> ")
        terminal.type("machine.console_interact()\r")
        terminal.expect("Ctrl-D leaves it")
        terminal.type("\x04")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert terminal.rest()[1] == 0


def test_a_failed_test_is_held_where_it_failed(manifest: Path) -> None:
    (manifest.parent / "test.py").write_text(
        "kept = machine.succeed('echo 77')\nmachine.fail('true')\n"
    )
    with _run(manifest, "--pause-on-failure", env=_plain(manifest)) as terminal:
        assert "test.py:2" in terminal.expect("the machines run on")
        terminal.expect(">>> ")
        terminal.type("kept.strip() * 2, machine.succeed('echo alive').upper()\r")
        terminal.expect("'7777', 'ALIVE")
        terminal.expect(">>> ")
        terminal.type("\x04")
        rest, status = terminal.rest()
        assert status == 1
        assert "FAILED" in rest


def test_a_breakpoint_stops_the_script(manifest: Path) -> None:
    (manifest.parent / "test.py").write_text(
        "word = 'stopped'\ndebug.breakpoint()\nassert word == 'changed'\n"
    )
    with _run(manifest, "--pause-on-failure", env=_plain(manifest)) as terminal:
        terminal.expect(">>> ")
        terminal.type("word = 'changed'\r")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert terminal.rest()[1] == 0


def test_nobody_is_asked_where_there_is_no_terminal(manifest: Path) -> None:
    command = [sys.executable, "-m", "attest", "run", "-I", manifest]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "needs a terminal" in result.stderr
    (manifest.parent / "test.py").write_text("debug.breakpoint()\n")
    command = [sys.executable, "-m", "attest", "run", "--accel", "tcg", manifest]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
