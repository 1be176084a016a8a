"""What a machine needs of the connection to its guest, whoever is at the other end of it.

`Channel` is what a machine calls; the agent's and the backdoor shell's are two of them. What they
take and give is here too, and knows nothing of how either travels.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final, Protocol

import msgspec

from attest.errors import UsageError
from attest.guest.identity import Identity
from attest.support.durations import Duration

__all__ = [
    "Channel", "Command", "Completed", "Follower", "PowerAction", "Running", "Sink", "WaitFor",
    "WaitKind", "Waiting", "Welcome", "unmet",
]  # fmt: skip

_LONGEST: Final = 131_071
"""Bytes that a command may have, or one of its words or variables: more is no argument of a program
(Linux's MAX_ARG_STRLEN, with a NUL)."""

Sink = Callable[[bytes], object]
"""Is called with each piece of a command's output, as it comes."""


class Follower(Protocol):
    """Is told of a command under way, mostly in the thread that waits for it."""

    def output(self, channel: int, data: bytes) -> None:
        """Learn what it has printed, on standard output (0) or standard error (1)."""

    def note(self, text: str) -> None:
        """Learn what keeps it from ending, though it has exited."""


class WaitKind(IntEnum):
    """The kinds of things that a guest can be told to wait for."""

    PORT_OPEN = 1
    PORT_CLOSED = 2
    UNIX_SOCKET = 3
    FILE_EXISTS = 4
    UNIT = 5
    PROCESS = 6
    PROCESS_GONE = 7
    FILE_GONE = 8


class PowerAction(IntEnum):
    """The ways to end or reboot a guest. The ``NOW`` ones stop no services, but sync disks."""

    POWER_OFF = 1
    REBOOT = 2
    POWER_OFF_NOW = 3
    REBOOT_NOW = 4


class Welcome(msgspec.Struct, frozen=True):
    """What whoever answers in a guest says of itself and of the guest.

    Attributes:
        version: The agent protocol's version that it speaks; if it is not ours, the rest is
            empty. 0 for a shell, which speaks none.
        agent_version: Its own version.
        boot_id: The guest kernel's boot id.
        init: ``"systemd"``, ``"agent"`` (the agent is PID 1) or ``"other"``.
        shell: Path of the shell that runs commands.
        architecture: As ``uname -m`` says it.
    """

    version: int
    agent_version: str = ""
    boot_id: str = ""
    init: str = ""
    shell: str = ""
    architecture: str = ""


class Command(msgspec.Struct, frozen=True):
    """A command to run in a guest.

    Attributes:
        command: For the guest's shell, or a program and its arguments.
        timeout: Seconds, after which it is killed with all that it has started.
        cwd: Its working directory.
        user: Who runs it: name or number; default root.
        env: Added to its environment.
        stdin: Its standard input is to be written.
        pty: Rows and columns of a terminal for it.
        strict: The shell runs it under ``set -euo pipefail``, by default in ``/tmp``.
        wait_for_output: It has ended only when processes in the background have closed its output.

    Raises:
        UsageError: It, or one of its words or variables, is too long.
    """

    command: str | list[str]
    timeout: float | None = None
    cwd: str | None = None
    user: str | None = None
    env: Mapping[str, str] | None = None
    stdin: bool = False
    pty: tuple[int, int] | None = None
    strict: bool = False
    wait_for_output: bool = True

    def __post_init__(self) -> None:
        words = [self.command] if isinstance(self.command, str) else self.command
        words = [*words, *(f"{name}={value}" for name, value in (self.env or {}).items())]
        for word in words:
            if 4 * len(word) <= _LONGEST:  # as it mostly is: bytes need not be counted
                continue
            if (size := len(word.encode(errors="replace"))) > _LONGEST:
                raise UsageError(
                    f"a command, a word of one or a variable has at most {_LONGEST:,} bytes, this "
                    f"one has {size:,}: `{word[:60]}…`",
                    hint="copy_from_host() brings what is long into the machine as a file",
                )

    def __str__(self) -> str:
        return self.command if isinstance(self.command, str) else " ".join(self.command)


class WaitFor(msgspec.Struct, frozen=True):
    """What a wait in a guest waits for.

    Attributes:
        kind: Which kind of thing.
        subject: Its address, path, unit, or process name or id.
        timeout: Seconds until it must have come; it is looked for once at least.
        port: TCP port.
        wanted: ActiveState of a unit.
        datagram: The Unix socket takes datagrams.
        attempt: Seconds in which a port must have answered.
    """

    kind: WaitKind
    subject: str
    timeout: float
    port: int | None = None
    wanted: str = "active"
    datagram: bool = False
    attempt: float = 1.0

    def __str__(self) -> str:
        what, verb = self._words()
        return f"{what} to {verb}"

    def unmet(self, seen: str, *, in_time: bool = False) -> str:
        """Why it has not come, as a sentence.

        Args:
            seen: What was last the case.
            in_time: Its time is over, but it may still come.
        """
        return unmet(*self._words(), seen, self.timeout if in_time else None)

    def _words(self) -> tuple[str, str]:
        what, verb = _WANTED[self.kind]
        return what.format(self), verb.format(self)


def unmet(what: str, verb: str, seen: str, timeout: float | None = None) -> str:
    """Why something has not come, as a sentence.

    Args:
        what: What was waited for.
        verb: What it did not do.
        seen: What was last the case.
        timeout: The seconds that it had, where it may still come.
    """
    limit = "" if timeout is None else f" in {timeout:g} s"
    return f"{what} did not {verb}{limit}{f': {seen}' if seen else ''}"


_WANTED: Final = {
    WaitKind.PORT_OPEN: ("port {0.port} of {0.subject}", "open"),
    WaitKind.PORT_CLOSED: ("port {0.port} of {0.subject}", "close"),
    WaitKind.UNIX_SOCKET: ("socket {0.subject}", "open"),
    WaitKind.FILE_EXISTS: ("file {0.subject}", "appear"),
    WaitKind.FILE_GONE: ("file {0.subject}", "go away"),
    WaitKind.UNIT: ("unit {0.subject}", "become {0.wanted}"),
    WaitKind.PROCESS: ("process {0.subject}", "start"),
    WaitKind.PROCESS_GONE: ("process {0.subject}", "end"),
}
"""What an error calls what it waited for, and what that did not do."""


class Completed(msgspec.Struct, frozen=True):
    """A command that has ended.

    Attributes:
        status: Exit code; 128 + N after signal N; 124 after its time limit.
        stdout: What it printed, unless that went to a sink.
        stderr: What it printed on standard error, unless that went to a sink.
        timed_out: It was ended by its time limit.
        signal: The signal that ended it, or None.
        held: What kept it from ending until its time limit, though it had exited; mostly empty.
    """

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    signal: int | None = None
    held: str = ""


class Running(Protocol):
    """A command under way, see `attest.guest.agent.process.Process`."""

    def write(self, data: bytes) -> None:
        """Write to its standard input."""

    def feed(self, source: bytes) -> None:
        """Write all of ``source`` to its standard input and end that; does not wait for it."""

    def close_stdin(self) -> None:
        """End its standard input."""

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""

    def read(self, timeout: Duration | None = None) -> bytes:
        """Wait for some of its standard output and return that; empty at its end."""

    def wait(self, timeout: Duration | None = None) -> Completed:
        """Wait for its end, at most ``timeout`` seconds, and return how it ended."""

    def cancel(self) -> None:
        """Kill it; `wait` then returns."""

    def abandon(self) -> None:
        """Kill it and drop its output, when nobody waits for it any more."""


class Waiting(Protocol):
    """A wait under way, see `attest.guest.agent.wait.Wait`."""

    def cancel(self) -> None:
        """Give up the wait; `result` then raises `WaitFailed`."""

    def result(self, timeout: float | None = None) -> str:
        """Wait until it is so, at most ``timeout`` seconds, and return what was seen."""


class Channel(Protocol):
    """The connection to a guest; see `attest.guest.agent.channel.AgentChannel`.

    What one end cannot do is a `MachineError` that says so.
    """

    @property
    def welcome(self) -> Welcome:
        """What the guest said of itself in the last `connect`."""

    def connect(self, timeout: float) -> Welcome:
        """Greet the guest, and wait at most ``timeout`` seconds for its answer."""

    def reconnect(self, sock: socket.socket, reason: str, *, padding: bool = True) -> None:
        """Begin anew on a connection, which may be the same; call `connect` next."""

    def interrupt(self, reason: str) -> None:
        """Make all that is under way fail with ``reason``; the connection stays open."""

    def close(self) -> None:
        """Close the connection; whatever is under way on it fails."""

    def run(self, command: Command, *, stdout: Sink | None = None) -> Completed:
        """Run a command to its end, and return how it ended."""

    def start(
        self,
        command: Command,
        *,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        follower: Follower | None = None,
    ) -> Running:
        """Start a command and return it running."""

    def start_wait(self, wanted: WaitFor) -> Waiting:
        """Begin a wait and return it under way."""

    def put(self, source: Path, target: str) -> list[str]:
        """Copy a file or a tree into the guest; returns what was left out, and why."""

    def put_directly(self, source: Path, target: str) -> list[str]:
        """As `put`, but not through a directory that host and guest share."""

    def place(self, source: Path, target: str) -> list[str]:
        """As `put`, but ``target`` is what it becomes, also where there is a directory already."""

    def get(self, source: str, target: Path) -> list[str]:
        """Copy a file or a tree out of the guest; returns what was left out, and why."""

    def forward(self, host_port: int, guest_port: int) -> object:
        """Carry connections to a port of this host's loopback into the guest."""

    def identity(self, identity: Identity) -> None:
        """Give the guest its host name, addresses and clock, as far as ``identity`` has them."""

    def power(self, action: PowerAction) -> None:
        """Power off or reboot the guest; returns when that has begun."""
