"""The user's terminal, joined to a shell in a machine."""

from __future__ import annotations

import os
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
    with _raw(), _resizing(process):
        # A daemon: it sits in read() on the terminal, which nothing can wake when the shell has
        # ended.
        threading.Thread(target=_type, args=[process], name="keyboard", daemon=True).start()
        while data := process.read():
            os.write(sys.stdout.fileno(), data)
    return process.wait().status


def _type(process: Process) -> None:
    with suppress(BrokenPipeError, ChannelError):  # the shell has ended meanwhile
        while data := os.read(sys.stdin.fileno(), 4096):
            process.write(data)
        process.close_stdin()


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
