"""Waits that a backdoor shell carries: short probes, repeated from the host."""

from __future__ import annotations

import re
import shlex
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from attest.errors import WaitFailed
from attest.guest.channel import Completed, Running, WaitFor, WaitKind
from attest.guest.unit_probe import HopelessError, UnitProbe
from attest.support.polling import deadline, pauses
from attest.support.text import plain_text

__all__ = ["Probe", "ShellWait"]

_PORTS: Final = (WaitKind.PORT_OPEN, WaitKind.PORT_CLOSED)

_STARTING: Final = 1.0
"""Seconds, beyond those that a connection may take, for the shell that makes it."""

_ONE_LOOK: Final = 30.0
"""Seconds for the only probe of a wait that has no time, which other commands may delay."""

_NAME: Final = re.compile(r"[\w.-]+")
"""A host's name."""

_UNKNOWN: Final = 3
"""The exit code of a probe for whose subject the guest knows no address."""


class Probe:
    """A short command that tells whether what is waited for is so.

    Args:
        wanted: What is waited for.

    Attributes:
        command: The command, for bash.
    """

    def __init__(self, wanted: WaitFor) -> None:
        self._wanted = wanted
        self._unit = UnitProbe(wanted.subject, wanted.wanted)
        self.command = self._command()

    def judge(self, completed: Completed) -> tuple[bool, str]:
        """Whether it is so, and what was seen.

        Raises:
            HopelessError: It cannot come any more.
        """
        text = plain_text(completed.stdout.decode(errors="replace").strip())
        if self._wanted.kind is WaitKind.UNIT:
            return self._unit.judge(text)
        if self._wanted.kind in _PORTS and completed.status == _UNKNOWN:
            unknown = f"the machine knows no address of {self._wanted.subject}"
            if not _NAME.fullmatch(self._wanted.subject):
                raise HopelessError(unknown, {})
            return False, unknown  # it asks name servers, too, which may only just be coming up
        return completed.status == 0, text

    def _command(self) -> str:
        subject = self._wanted.subject
        quoted = shlex.quote(subject)
        match self._wanted.kind:
            case WaitKind.PORT_OPEN | WaitKind.PORT_CLOSED:
                return _port_command(self._wanted)
            case WaitKind.UNIX_SOCKET:
                return _socket_command(subject, datagram=self._wanted.datagram)
            case WaitKind.FILE_EXISTS:
                return f"test -e {quoted}"
            case WaitKind.FILE_GONE:
                return f"test ! -e {quoted}"
            case WaitKind.PROCESS:
                return _process_command(subject)
            case WaitKind.PROCESS_GONE:
                return f"! {_process_command(subject)}"
            case WaitKind.UNIT:
                return self._unit.command


def _port_command(wanted: WaitFor) -> str:
    """Try all addresses of a host, and print why none accepts; a name that is unknown is said so.

    A name is looked up as the guest does it; that of the guest itself is fixed (RFC 6761, 6.3).
    """
    addresses, longest = _addresses(wanted.subject), f"{wanted.attempt + _STARTING:.3f}"
    opened, closed = (0, 1) if wanted.kind is WaitKind.PORT_OPEN else (1, 0)
    return (
        f'all=$(echo {addresses}); [ "$all" ] || exit {_UNKNOWN}; for one in $all; do '
        f"said=$(timeout {longest} bash -c 'exec 3<>/dev/tcp/$0/{wanted.port}' $one 2>&1) "
        f"&& {{ echo open; exit {opened}; }}; [ $? = 124 ] && said='Connection timed out'; done; "
        f'printf "%s\\n" "${{said##*: }}"; exit {closed}'
    )


def _addresses(host: str) -> str:
    """What bash expands to the addresses of a host."""
    if re.fullmatch(r"\[.*\]", host):
        host = host[1:-1]
    if host.lower() == "localhost":
        return "127.0.0.1 ::1"
    if ":" not in host:
        return f"$(getent ahosts {shlex.quote(host)} | cut -d ' ' -f 1 | sort -u)"
    try:  # `getent` knows of no interface, which such an address may have
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return ""
    return shlex.quote(host)


def _socket_command(path: str, *, datagram: bool) -> str:
    """NixOS guests have ``nc``; where there is none, the kernel's table knows who listens."""
    kind, flags = ("0002", "") if datagram else ("0001", ' && $4 == "00010000"')
    table = f'$NF == path && $5 == "{kind}"{flags} {{ found = 1 }} END {{ exit !found }}'
    quoted = shlex.quote(path)
    return (
        f"if command -v nc >/dev/null; then nc -z -U{'u' if datagram else ''} {quoted}; "
        f"else awk -v path={quoted} {shlex.quote(table)} /proc/net/unix; fi"
    )


def _process_command(process: str) -> str:
    if process.isdigit():
        return f"test -d /proc/{process}"
    return f"pgrep -x {shlex.quote(process)} >/dev/null"


class ShellWait:
    """A wait under way in a guest.

    Args:
        machine: The machine's name, for errors.
        probe: Tells whether it is so.
        start: Starts a command.
        wanted: What is waited for.
    """

    def __init__(
        self,
        machine: str,
        probe: Probe,
        start: Callable[[str], Running],
        wanted: WaitFor,
    ) -> None:
        self._machine = machine
        self._probe = probe
        self._start = start
        self._wanted = wanted
        self._limit = time.monotonic() + wanted.timeout
        self._looked_until = time.monotonic() + (wanted.timeout or _ONE_LOOK)
        self._cancelled = threading.Event()
        self._pauses = pauses()
        self._running: Running | None = None
        self._seen = ""

    def cancel(self) -> None:
        """End the wait; `result` then raises `WaitFailed`."""
        self._cancelled.set()
        if self._running is not None:
            self._running.abandon()

    def result(self, timeout: float | None = None) -> str:
        """Wait until it is so, and return what was seen.

        Args:
            timeout: Seconds to wait for it here.

        Raises:
            TimeoutError: It has not come in ``timeout`` seconds; the wait goes on.
            WaitFailed: The time limit passed, or it cannot come any more.
            ChannelError: The session has ended.
        """
        until = deadline(timeout)
        while True:
            try:
                so, self._seen = self._probe.judge(self._run_probe(until))
            except HopelessError as error:
                reason = self._wanted.unmet(str(error))
                raise WaitFailed(self._machine, reason, state=error.state) from None
            if self._cancelled.is_set():
                raise WaitFailed(self._machine, f"the wait for {self._wanted} was cancelled")
            if so:
                return self._seen
            pause = next(self._pauses)
            if time.monotonic() + pause >= self._limit:
                raise self._overdue()
            self._cancelled.wait(pause)
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"the wait for {self._wanted} goes on after {timeout:g} s")

    def _run_probe(self, until: float | None) -> Completed:
        """Run the probe; one that was begun before goes on."""
        if self._running is None:
            self._running = self._start(self._probe.command)
        end = self._looked_until
        try:
            first = end if until is None else min(until, end)
            completed = self._running.wait(max(first - time.monotonic(), 0))
        except TimeoutError:
            if time.monotonic() < end:
                raise
            self._running.abandon()
            raise self._overdue() from None
        self._running = None
        return completed

    def _overdue(self) -> WaitFailed:
        return WaitFailed(self._machine, self._wanted.unmet(self._seen, in_time=True))
