"""The user's terminal, joined to a shell in a machine."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from attest.errors import ChannelError
from attest.guest.agent_channel import Process
from attest.machine import Machine

__all__ = ["interact"]


def interact(machine: Machine) -> int:
    """Run a login shell on the user's terminal until it ends; return its exit code."""
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    command = "if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi"
    term = {"TERM": os.environ.get("TERM", "linux")}
    process = machine.spawn(command, env=term, stdin=True, pty=(rows, columns))
    with _raw(), _resizing(process), _typing(process):
        while data := process.read():
            os.write(sys.stdout.fileno(), data)
    return process.wait().status


@contextmanager
def _typing(process: Process) -> Iterator[None]:
    """Hand over what is typed; what comes after the shell's end is for others to read."""
    ended, end = os.pipe()
    thread = threading.Thread(target=_type, args=[process, ended], name="keyboard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        os.close(ended)


def _type(process: Process, ended: int) -> None:
    terminal = sys.stdin.fileno()
    with suppress(BrokenPipeError, ChannelError):  # the shell has ended meanwhile
        while ended not in select.select([terminal, ended], [], [])[0]:
            if not (data := os.read(terminal, 4096)):
                process.close_stdin()
                return
            process.write(data)


@contextmanager
def _raw() -> Iterator[None]:
    """Keys reach the guest as they are, Ctrl-C included."""
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _resizing(process: Process) -> Iterator[None]:
    def resize() -> None:
        columns, rows = os.get_terminal_size(sys.stdin.fileno())
        with suppress(ChannelError):
            process.resize(rows, columns)

    def resized(*_: object) -> None:
        # Not here: the signal may come while this very thread holds the lock for sending.
        threading.Thread(target=resize, name="resize", daemon=True).start()

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
