"""Waits that a backdoor shell carries: short probes, repeated from the host."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from typing import Final

from attest.errors import WaitFailed
from attest.guest.channel import Completed, Running, WaitFor, WaitKind
from attest.support.polling import deadline, pauses

__all__ = ["Probe", "ShellWait"]

_CONNECT: Final = 2
"""Seconds in which a connection to a port must be made."""

_UNIT_PROPERTIES: Final = ("LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus")


class HopelessError(Exception):
    """What is waited for cannot come any more; the text says why.

    Attributes:
        state: What is known of the subject.
    """

    def __init__(self, reason: str, state: dict[str, str]) -> None:
        super().__init__(reason)
        self.state = state


class Probe:
    """A short command that tells whether what is waited for is so.

    Args:
        wanted: What is waited for.

    Attributes:
        command: The command, for bash.
    """

    def __init__(self, wanted: WaitFor) -> None:
        self._subject = wanted.subject
        self._port = wanted.port
        self._wanted = wanted.wanted
        self._datagram = wanted.datagram
        self._unit = wanted.kind is WaitKind.UNIT
        self.command = self._command(wanted.kind)

    def judge(self, completed: Completed) -> tuple[bool, str]:
        """Whether it is so, and what was seen.

        Raises:
            HopelessError: It cannot come any more.
        """
        text = completed.stdout.decode(errors="replace").strip()
        if self._unit:
            return self._judge_unit(text)
        return completed.status == 0, text

    def _command(self, kind: WaitKind) -> str:
        quoted = shlex.quote(self._subject)
        match kind:
            case WaitKind.PORT_OPEN:
                return self._port_command(("open", 0), ("closed", 1))
            case WaitKind.PORT_CLOSED:
                return self._port_command(("open", 1), ("closed", 0))
            case WaitKind.UNIX_SOCKET:
                return _socket_command(self._subject, datagram=self._datagram)
            case WaitKind.FILE_EXISTS:
                return f"test -e {quoted}"
            case WaitKind.FILE_GONE:
                return f"test ! -e {quoted}"
            case WaitKind.PROCESS:
                return _process_command(self._subject)
            case WaitKind.PROCESS_GONE:
                return f"! {_process_command(self._subject)}"
            case WaitKind.UNIT:
                properties = ",".join((*_UNIT_PROPERTIES, "Job"))
                show = f"systemctl --no-pager show --property={properties} {quoted}"
                # Whether there are jobs matters where it is inactive; then its own may have ended
                # since it was looked at.
                return (
                    f"state=$({show}); case $state in *ActiveState=inactive*) "
                    f"systemctl --no-pager list-jobs; {show};; "
                    '*) printf "%s\\n" "$state";; esac'
                )

    def _port_command(self, opened: tuple[str, int], closed: tuple[str, int]) -> str:
        connect = shlex.quote(f"exec 3<>/dev/tcp/{shlex.quote(self._subject)}/{self._port}")
        seen = f"{self._subject} port {self._port}"
        then = [f"echo {shlex.quote(f'{seen}: {word}')}; exit {code}" for word, code in
                (opened, closed)]  # fmt: skip
        return f"if timeout {_CONNECT} bash -c {connect} 2>/dev/null; then {then[0]}; fi; {then[1]}"

    def _judge_unit(self, text: str) -> tuple[bool, str]:
        state = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
        idle = "No jobs" in text
        active, load = state.get("ActiveState", "unknown"), state.get("LoadState")
        if active == self._wanted:
            return True, active
        job = state.get("Job") not in (None, "", "0")
        hopeless = idle and active == "inactive" and self._wanted == "active"
        unknown = idle and load == "not-found"
        detail = load if unknown else state.get("SubState")
        more = ", with a job pending" if job else ", and no job is pending" if hopeless else ""
        seen = f"unit {self._subject} is {active} ({detail}){more}"
        if hopeless or unknown or (active == "failed" and not job):
            raise HopelessError(seen, {key: state[key] for key in _UNIT_PROPERTIES if key in state})
        return False, seen


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
                reason = f"no {self._wanted}: {error}"
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
                raise TimeoutError(f"no {self._wanted} in {timeout:g} s, and the wait goes on")

    def _run_probe(self, until: float | None) -> Completed:
        """Run the probe; one that was begun before goes on."""
        if self._running is None:
            self._running = self._start(self._probe.command)
        try:
            limits = [limit for limit in (until, self._limit) if limit is not None]
            completed = self._running.wait(max(min(limits) - time.monotonic(), 0))
        except TimeoutError:
            if time.monotonic() < self._limit:
                raise
            self._running.abandon()
            raise self._overdue() from None
        self._running = None
        return completed

    def _overdue(self) -> WaitFailed:
        seen = f"; last seen: {self._seen}" if self._seen else ""
        return WaitFailed(self._machine, f"no {self._wanted} in {self._wanted.timeout:g} s{seen}")
