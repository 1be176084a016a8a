"""`attest shell` on a real terminal: its size, its Ctrl-C, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from attest.machine.machine import Machine
from tests.guest.terminal import Terminal


def test_a_shell_is_a_terminal_in_the_guest() -> None:
    with Terminal("shell", "--accel", "tcg", "--memory", "96", "tiny") as terminal:
        terminal.expect("# ")
        terminal.type("stty size; uname -n\r")
        terminal.expect("33 111")
        terminal.expect("machine")
        # Ctrl-C ends the guest's program, and neither attest nor the shell.
        # It must run when the key is pressed: before that, the shell itself takes the signal and
        # goes on to start it. The shell drops what was typed before its new prompt.
        terminal.type("sh -c 'echo started-$((1 + 1)); exec sleep 1000'\r")
        terminal.expect("started-2")
        terminal.type("\x03")
        terminal.expect("# ")
        terminal.type("echo still-$((40 + 2))\r")
        terminal.expect("still-42")
        terminal.resize(44, 122)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        terminal.type("stty size\r")
        terminal.expect("44 122")
        terminal.type("exit 7\r")
        assert terminal.rest()[1] == 7


def test_without_a_terminal_there_is_no_shell() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "attest", "shell", "tiny"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "needs a terminal" in result.stderr


def test_a_shell_may_be_somewhere_else(machine: Machine, tmp_path: Path) -> None:
    path = str(tmp_path / "shell")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        shell = threading.Thread(target=machine.shell_interact, args=[f"UNIX-CONNECT:{path}"])
        shell.start()
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as lines:
            print("tty; echo sum-$((40 + 2)); exit", file=lines, flush=True)
            text = lines.read()
        shell.join()
    assert "/dev/pts/" in text
    assert "sum-42" in text
