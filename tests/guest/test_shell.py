"""`attest shell` on a real terminal: its size, its Ctrl-C, and its end."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest


class Terminal:
    """A terminal with `attest shell tiny` in it."""

    def __init__(self, rows: int, columns: int) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self._seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "attest", "shell", "--accel", "tcg", "--memory", "96", "tiny"],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> None:
        """Read until ``text`` has come; what comes after it is kept."""
        deadline = time.monotonic() + 120
        while text.encode() not in self._seen:
            readable, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert readable, f"no {text!r} in {self._seen!r}"
            self._seen += os.read(self._master, 4096)
        self._seen = self._seen.partition(text.encode())[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal(33, 111)
    yield terminal
    terminal.close()


def test_a_shell_is_a_terminal_in_the_guest(terminal: Terminal) -> None:
    terminal.expect("# ")
    terminal.type("stty size; uname -n\r")
    terminal.expect("33 111")
    terminal.expect("machine")
    # Ctrl-C ends the guest's program, and neither attest nor the shell.
    # It must run when the key is pressed: before that, the shell itself takes the signal and goes
    # on to start it. The shell drops what was typed before its new prompt.
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
    assert terminal.process.wait(60) == 7


def test_without_a_terminal_there_is_no_shell() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "attest", "shell", "tiny"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "needs a terminal" in result.stderr
