"""Reaching the agent in a guest that boots, was just restored, or is dead.

Each step can fail while a guest boots, and for the same reason when it never will; so all attempts
are remembered with their reasons, and the error tells them. No attempt takes long, and the VMM's
end, the guest's death and processors that stand still are watched apart from all attempts.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from attest.errors import ChannelError
from attest.support.procfs import children, thread_time
from attest.support.unix_sockets import readable
from attest.vmm.base import DialError, Greet
from attest.vmm.process import WatchedProcess

__all__ = [
    "DEFAULT_LIMITS",
    "Connect",
    "DialLimits",
    "FailedError",
    "Reason",
    "VmmEndedError",
    "dial",
]


class DialLimits(Struct, frozen=True):
    """How long each step of a dial may take, in seconds.

    Attributes:
        first_attempt: To connect at first, which may be lost in a guest that was just restored;
            each further attempt has twice as long.
        longest_attempt: To connect at last; VMMs themselves give up on a guest after 2 s.
        greeting: For an agent to answer its first greeting; each further one has twice as long.
        first_pause: Between the first two attempts; each further pause is twice as long.
        longest_pause: Between the last ones.
        standstill: In which a guest that lives uses its processors: an idle kernel's clock ticks
            do.
        halted: Of standing still that end the attempts, as each of them wakes a guest that can run.
    """

    first_attempt: float = 0.25
    longest_attempt: float = 2.5
    greeting: float = 5.0
    first_pause: float = 0.01
    longest_pause: float = 0.25
    standstill: float = 1.0
    halted: float = 30.0


DEFAULT_LIMITS: Final = DialLimits()


class Reason(Struct, frozen=True):
    """Why an attempt failed: what was seen, and what to do when it stays so."""

    seen: str
    advice: str


_NO_GREETING: Final = Reason(
    "OK, but no greeting",
    "something in the guest took the connection, and it is no agent, or one that is stuck: look at "
    "its console",
)


class FailedError(Exception):
    """An attempt failed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.seen)
        self.reason = reason


class VmmEndedError(Exception):
    """The VMM has ended while an attempt was under way."""


class Connect(Protocol):
    """One attempt to connect to the agent's port."""

    def __call__(self, limit: float, end: int) -> socket.socket:
        """Connect.

        Args:
            limit: Seconds.
            end: A descriptor that can be read when the VMM has ended.

        Raises:
            FailedError: It did not work, for now.
            VmmEndedError: The VMM has ended.
        """


class _Tally(Struct):
    """How often a reason was seen; the times are seconds since the start."""

    reason: Reason
    first: float
    last: float = 0
    count: int = 0

    def __str__(self) -> str:
        when = f"once, at {self.first:.2f} s"
        if self.count > 1:
            when = f"{self.count} times, from {self.first:.2f} s to {self.last:.2f} s"
        return f"{self.reason.seen}: {when} ({self.reason.advice})"


def dial(
    connect: Connect,
    greet: Greet,
    timeout: float,
    *,
    vmm: WatchedProcess,
    vcpus: str,
    dead: Callable[[], str],
    limits: DialLimits = DEFAULT_LIMITS,
) -> None:
    """Connect to a guest's agent and greet it.

    Args:
        connect: One attempt to connect.
        greet: Greets the agent on a new connection, which is its own from then on.
        timeout: Seconds until the agent must have answered; no attempt takes more than a few.
        vmm: The VMM's process; when that ends, so does this, at once.
        vcpus: What the names of its threads begin with that are the guest's processors.
        dead: What is known of the guest's death, such as a kernel panic; asked after each attempt.
            Empty: it lives.
        limits: How long each step may take.

    Raises:
        DialError: It was not reached, with the last reason; its attempts are all reasons, each with
            how often and when it was seen, and what to do about it.
        ChannelError: The agent answered, and cannot be talked to.
    """
    _Dialling(connect, greet, timeout, vmm, _Processors(vmm, vcpus), dead, limits).run()


class _Dialling:
    """The attempts of one `dial`."""

    def __init__(
        self,
        connect: Connect,
        greet: Greet,
        timeout: float,
        vmm: WatchedProcess,
        processors: _Processors,
        dead: Callable[[], str],
        limits: DialLimits,
    ) -> None:
        self._connect = connect
        self._greet = greet
        self._timeout = timeout
        self._vmm = vmm
        self._processors = processors
        self._dead = dead
        self._limits = limits
        self._started = time.monotonic()
        self._connecting = limits.first_attempt
        self._greeting = limits.greeting
        self._tallies: list[_Tally] = []

    def run(self) -> None:
        if self._vmm.exit is not None:
            raise self._ended()
        try:
            end = os.pidfd_open(self._vmm.pid)  # readable when it has ended
        except ProcessLookupError:
            raise self._ended() from None
        try:
            self._until_reached(end)
        finally:
            os.close(end)

    def _until_reached(self, end: int) -> None:
        pause = self._limits.first_pause
        while True:
            try:
                return self._attempt(end)
            except VmmEndedError:
                raise self._ended() from None
            except FailedError as failure:
                self._count(failure.reason)
            if said := self._dead():
                raise self._error(f"the guest is dead: {said}")
            if readable([end], min(pause, self._left())):  # the pause
                raise self._ended()
            if still := self._processors.standstill(self._limits.halted):
                raise self._error(still)
            if self._left() <= 0:
                raise self._late()
            pause = min(2 * pause, self._limits.longest_pause)

    def _attempt(self, end: int) -> None:
        limit = max(min(self._connecting, self._left()), 0.001)
        self._connecting = min(2 * self._connecting, self._limits.longest_attempt)
        sock = self._connect(limit, end)
        limit = max(min(self._greeting, self._left()), 0.001)
        self._greeting *= 2
        try:
            self._greet(sock, limit)
        except ChannelError as error:
            if not error.silent:
                raise
            raise FailedError(_NO_GREETING) from None

    def _count(self, reason: Reason) -> None:
        now = time.monotonic() - self._started
        tally = next((each for each in self._tallies if each.reason == reason), None)
        if tally is None:
            tally = _Tally(reason, first=now)
        else:
            self._tallies.remove(tally)  # the last reason goes last
        tally.count += 1
        tally.last = now
        self._tallies.append(tally)

    def _left(self) -> float:
        return self._started + self._timeout - time.monotonic()

    def _late(self) -> DialError:
        why = self._tallies[-1].reason.seen
        if still := self._processors.standstill(self._limits.standstill):
            why = f"{still}; {why}"
        return self._error(f"not reached in {round(self._timeout, 2):g} s: {why}")

    def _ended(self) -> DialError:
        return self._error(f"the VMM ended ({self._vmm.wait()})")

    def _error(self, why: str) -> DialError:
        message = f"cannot reach the agent in the guest: {why}"
        return DialError(message, [str(tally) for tally in self._tallies])


class _Processors:
    """The guest's processors, as the host's kernel sees them: threads of the VMM."""

    def __init__(self, vmm: WatchedProcess, names: str) -> None:
        self._vmm = vmm
        self._names = names
        self._used = 0
        self._since = time.monotonic()

    def standstill(self, least: float) -> str:
        """What there is to say when they have not run for so many seconds; else empty."""
        used = sum(thread_time(pid, self._names) for pid in self._pids())
        if used != self._used:
            self._used, self._since = used, time.monotonic()
        seconds = time.monotonic() - self._since
        if seconds < least or not used:  # of none that is known there is nothing to say
            return ""
        return (
            f"its processors have not run for {seconds:.1f} s: the guest has halted, or the VMM "
            "holds it"
        )

    def _pids(self) -> list[int]:
        # In a cell the process is `nsenter`, and the VMM its child.
        return [self._vmm.pid, *children(self._vmm.pid)]
