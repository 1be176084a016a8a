"""What a machine needs of the connection to its guest, whoever is at the other end of it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from attest.guest.identity import Identity
from attest.guest.process import Completed, Sink
from attest.guest.protocol import PowerAction, WaitKind, Welcome

__all__ = ["Channel", "Running", "Waiting"]


class Running(Protocol):
    """A command under way, see `attest.guest.process.Process`."""

    def write(self, data: bytes) -> None:
        """Write to its standard input."""

    def close_stdin(self) -> None:
        """End its standard input."""

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""

    def read(self, timeout: float | None = None) -> bytes:
        """The next standard output; empty at its end."""

    def wait(self, timeout: float | None = None) -> Completed:
        """Wait for its end."""

    def cancel(self) -> None:
        """End it; `wait` then returns."""

    def abandon(self) -> None:
        """End it, as nobody waits for it any more."""


class Waiting(Protocol):
    """A wait under way, see `attest.guest.agent_channel.Wait`."""

    def cancel(self) -> None:
        """End the wait."""

    def result(self, timeout: float | None = None) -> str:
        """What was seen."""


class Channel(Protocol):
    """The connection to a guest; see `attest.guest.agent_channel.AgentChannel`.

    What one end cannot do is a `MachineError` that says so.
    """

    @property
    def welcome(self) -> Welcome:
        """What the guest said of itself in the last `connect`."""

    def connect(self, timeout: float) -> Welcome:
        """Greet the guest."""

    def reconnect(self, sock: socket.socket, reason: str, *, padding: bool = True) -> None:
        """Begin anew; `connect` comes next."""

    def interrupt(self, reason: str) -> None:
        """End the session, the connection staying open."""

    def close(self) -> None:
        """End the connection, and everything under way on it."""

    def run(
        self,
        command: str | list[str],
        *,
        timeout: float | None = None,
        stdout: Sink | None = None,
        strict: bool = False,
    ) -> Completed:
        """Run a command to its end."""

    def start(
        self,
        command: str | list[str],
        *,
        timeout: float | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        pty: tuple[int, int] | None = None,
        strict: bool = False,
    ) -> Running:
        """Start a command and return it running."""

    def start_wait(
        self,
        kind: WaitKind,
        subject: str,
        *,
        timeout: float,
        port: int | None = None,
        wanted: str | None = None,
        datagram: bool = False,
    ) -> Waiting:
        """Begin a wait and return it under way."""

    def put(self, source: Path, target: str) -> list[str]:
        """Copy a file or a tree into the guest; returns what was left out, and why."""

    def put_directly(self, source: Path, target: str) -> list[str]:
        """As `put`, but not through a directory that host and guest share."""

    def get(self, source: str, target: Path) -> list[str]:
        """Copy a file or a tree out of the guest; returns what was left out, and why."""

    def forward(self, host_port: int, guest_port: int) -> object:
        """Carry connections to a port of this host's loopback into the guest."""

    def identity(self, identity: Identity) -> None:
        """Make the guest who it is to be."""

    def power(self, action: PowerAction) -> None:
        """Make the guest leave; returns when it has begun to."""
