"""Starting a machine and ending it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from attest.errors import MachineError, WaitFailed
from attest.events import EventLog, Kind
from attest.guest.channel import Channel, PowerAction
from attest.machine.contracts import MachineHost
from attest.machine.instance import Instance
from attest.machine.instance_states import Stage
from attest.machine.lifecycle import Lifecycle
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT

__all__ = ["Power"]

_CONSOLE_LINES: Final = 10
"""Last lines of its console that the error shows of a machine that does not leave."""


class Power:
    """Starting and ending, and what all else that is done to a machine goes through.

    Args:
        lifecycle: Its instances.
        host: What it has on this host.
        events: Where everything that happens is reported.

    Attributes:
        name: Its name.
        out_dir: Where its logs and the test's artefacts go.
        state_dir: A directory of its own on this host; the files of a start script are there.
        shared_dir: A directory on this host that all machines may share; NixOS's test guests have
            it at ``/tmp/shared``.
    """

    def __init__(self, lifecycle: Lifecycle, host: MachineHost, events: EventLog) -> None:
        self.name = lifecycle.name
        self.out_dir: Path = host.out_dir
        self.state_dir: Path = host.state_dir
        self.shared_dir: Path = host.shared_dir
        self._lifecycle = lifecycle
        self._host = host
        self._events = events

    def __repr__(self) -> str:
        return f"<machine {self.name}: {self.stage}>"

    @property
    def stage(self) -> Stage:
        """How far the machine has come since its last start; ``Stage.OFF`` before the first."""
        return self._lifecycle.stage

    @property
    def booted(self) -> bool:
        """Whether the machine has been started and has not ended."""
        return self._lifecycle.booted

    @property
    def connected(self) -> bool:
        """Whether the machine is up so far that its agent answers.

        A script that sets it to False, as after ``kexec``, says that the guest begins anew: what
        comes next waits for that.
        """
        return self._lifecycle.connected

    @connected.setter
    def connected(self, connected: bool) -> None:
        instance = self._lifecycle.instance
        if instance is not None and self.connected and not connected:
            instance.ready()
            instance.begin_anew("the test says that the guest begins anew")

    @property
    def absence(self) -> str:
        """Why the machine's agent cannot answer, for people; empty when it can."""
        return self._lifecycle.absence

    def is_up(self) -> bool:
        """Whether it has been started and its agent answers; the same as `connected`."""
        return self.connected

    @property
    def pid(self) -> int | None:
        """Process id of its VMM on the host, or None while it is off."""
        return self._lifecycle.vmm.pid if self.booted else None

    def start(self, allow_reboot: bool = False) -> None:
        """Start the machine and return at once; nothing happens when it is up.

        Args:
            allow_reboot: The guest may reboot by itself; otherwise that ends the machine, unless
                its node says ``allow_reboot = true``. `reboot` works in any case.
        """
        self._lifecycle.start(allow_reboot=allow_reboot)

    def connect(self) -> None:
        """Wait until the machine is ready; start it first when it is off.

        Raises:
            MachineError: It did not come up; says at which stage it stopped.
        """
        self._lifecycle.ready()

    def shutdown(self, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Power the machine off in an orderly way and wait for its end.

        Args:
            timeout: A number of seconds or a `timedelta` from the order on.

        Raises:
            MachineError: It did not power off; says which units hang. The machine is still there,
                `crash` ends it, and a death of it is a failure again.
            UsageError: ``timeout`` is no duration.
        """
        limit = self._limit("shutdown", timeout)
        if not self.booted:
            return
        with self._events.span(Kind.ACTION, "shut down", machine=self.name):
            instance = self._lifecycle.alive()
            channel = instance.ready()
            with _end_wanted(instance):
                channel.power(PowerAction.POWER_OFF)
                self._await_end(instance, limit)

    def crash(self) -> None:
        """End the machine at once, as a power cut does."""
        instance = self._lifecycle.instance
        if instance is None:
            return
        told = self._events.span(Kind.ACTION, "crash", machine=self.name)
        with told if self.booted else nullcontext():
            instance.kill()
        instance.accept_death()

    def reboot(self, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Reboot in an orderly way, and wait until the machine is ready again.

        Args:
            timeout: A number of seconds or a `timedelta` from the order until the guest must have
                been reset; for what follows, its node has a ``start_timeout``.

        Raises:
            MachineError: It did not reboot, and says which units hang; or it ended meanwhile.
            UsageError: ``timeout`` is no duration.
        """
        limit = self._limit("reboot", timeout)
        with self._events.span(Kind.ACTION, "reboot", machine=self.name):
            instance = self._lifecycle.alive()
            if not instance.reboot(limit):
                raise self._hangs(instance, f"did not reboot in {limit:g} s")

    def wait_for_shutdown(self, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Wait until the machine has ended by itself.

        Args:
            timeout: A number of seconds or a `timedelta`.

        Raises:
            MachineError: It did not; says which units hang. The machine is still there, and a death
                of it is a failure again.
            UsageError: ``timeout`` is no duration.
        """
        limit = self._limit("wait_for_shutdown", timeout)
        if (instance := self._lifecycle.instance) is not None:
            with _end_wanted(instance):
                self._await_end(instance, limit)

    def _await_end(self, instance: Instance, limit: float) -> None:
        with self._events.span(Kind.WAIT, "wait for the machine to power off", machine=self.name):
            if instance.vmm.wait(limit) is None:
                raise self._hangs(instance, f"did not power off in {limit:g} s")
            instance.kill()

    def _hangs(self, instance: Instance, message: str) -> MachineError:
        from attest.machine.end_jobs import what_hangs

        return MachineError(
            self.name,
            f"{message}{what_hangs(instance)}",
            console=instance.console_lines(_CONSOLE_LINES),
            hint="crash() ends the machine as it is",
        )

    def _limit(self, method: str, timeout: Duration) -> float:
        return seconds(timeout, f"{self.name}: {method}: timeout")

    # For the other subjects

    @property
    def _channel(self) -> Channel:
        """The connection to its agent; starts the machine and waits until it is ready."""
        return self._lifecycle.ready()

    def _error(self, message: str) -> MachineError:
        return MachineError(self.name, message)

    def _wait_failed(
        self,
        message: str,
        evidence: Mapping[str, Sequence[str]] | None = None,
        *,
        state: dict[str, str] | None = None,
    ) -> WaitFailed:
        """The error of a wait, with the machine's last console lines.

        Args:
            message: What was waited for, and how it is.
            evidence: What was last seen.
            state: What is known of the subject.
        """
        evidence = {**(evidence or {}), **self._lifecycle.console_evidence()}
        return WaitFailed(self.name, message, state=state, evidence=evidence)


@contextmanager
def _end_wanted(instance: Instance) -> Iterator[None]:
    """Take the end of an instance for no failure while this goes on, and if it has come then."""
    instance.want_end()
    try:
        yield
    except BaseException:
        instance.retract_end()
        raise
