"""The user's terminal, joined to a shell in a machine or to its console."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from attest.errors import ChannelError, HostError
from attest.guest.channel import Running
from attest.guest.console import Console

__all__ = ["CanSpawn", "interact", "interact_at", "interact_on_console"]

_LEAVE: Final = b"\x04"
"""Ctrl-D, which leaves a console, as that does not end by itself."""

_PIECE: Final = 4096


class CanSpawn(Protocol):
    """What can start a command and return it running, such as a machine."""

    def spawn(
        self,
        command: str,
        *,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        pty: tuple[int, int] | None = None,
    ) -> Running:
        """Start a command, see `attest.machine.commands.Commands.spawn`."""


def interact(machine: CanSpawn) -> int:
    """Run a login shell on the user's terminal until it ends; return its exit code."""
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    process = _shell(machine, rows, columns)
    with _raw(), _resizing(process), _typing(process):
        while data := process.read():
            os.write(sys.stdout.fileno(), data)
    return process.wait().status


def interact_at(machine: CanSpawn, address: str) -> None:
    """Run a login shell at an address of socat's until it ends, or its other end does.

    Raises:
        HostError: There is no socat.
    """
    socat = shutil.which("socat")
    if socat is None:
        raise HostError("`socat` was not found", hint="apt-get install socat")
    ours, theirs = socket.socketpair()
    with ours, subprocess.Popen([socat, address, f"FD:{theirs.fileno()}"],
                                pass_fds=[theirs.fileno()]) as other:  # fmt: skip
        theirs.close()
        process = _shell(machine, 24, 80)
        thread = threading.Thread(target=_feed, args=[ours, process], daemon=True)
        thread.start()
        try:
            with suppress(BrokenPipeError):
                while data := process.read():
                    ours.sendall(data)
        finally:
            process.abandon()
            ours.shutdown(socket.SHUT_RDWR)
            thread.join()
            other.terminate()


def interact_on_console(console: Console) -> None:
    """Join the user's terminal to a machine's console until Ctrl-D."""

    def show(data: bytes) -> None:
        os.write(sys.stdout.fileno(), data)

    terminal = sys.stdin.fileno()
    with _raw(), console.followed(show):
        show(b"the console; Ctrl-D leaves it\r\n")
        while (data := os.read(terminal, _PIECE)) and _LEAVE not in data:
            console.send(data)


def _shell(machine: CanSpawn, rows: int, columns: int) -> Running:
    command = "if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi"
    term = {"TERM": os.environ.get("TERM", "linux")}
    return machine.spawn(command, env=term, stdin=True, pty=(rows, columns))


def _feed(source: socket.socket, process: Running) -> None:
    with suppress(BrokenPipeError, ConnectionError, ChannelError):
        while data := source.recv(_PIECE):
            process.write(data)
        process.close_stdin()


@contextmanager
def _typing(process: Running) -> Iterator[None]:
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


def _type(process: Running, ended: int) -> None:
    terminal = sys.stdin.fileno()
    with suppress(BrokenPipeError, ChannelError):  # the shell has ended meanwhile
        while ended not in select.select([terminal, ended], [], [])[0]:
            if not (data := os.read(terminal, _PIECE)):
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
def _resizing(process: Running) -> Iterator[None]:
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
