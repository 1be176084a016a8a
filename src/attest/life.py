"""One life of a machine: from the start of its VMM through its stages to its end.

A life begins with a boot, or as a clone of a snapshot. A clone counts only when it has answered:
some snapshots load without a word and never do (see `attest.snapshot.shape`). Where one does not,
the machine boots. Some clones answer and die a moment later, their kernel being unfit for it: so
each is watched for a while, and where nobody has used it yet, it boots, too.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from attest.errors import AttestError, ChannelError, MachineError, WaitFailed
from attest.events import EventLog, Kind
from attest.guest.agent_channel import AgentChannel
from attest.guest.channel import Channel
from attest.guest.console import Alarm, Console
from attest.guest.identity import Identity
from attest.guest.protocol import PowerAction, WaitKind
from attest.scope import Scope
from attest.vmm.base import DialError, Saved, Vmm, VmmExit

if TYPE_CHECKING:
    from attest.checkpoint import Snapshot

__all__ = ["Boot", "Life", "MachineContext", "Return", "Stage"]

_REAPED: Final = 1.0
"""Seconds: the sockets of a VMM that ends close a moment before its process is gone."""

_TRIAL: Final = 30.0
"""Seconds in which a clone must answer; it takes a tenth, and on a busy host with many a few."""

_TURNS: Final = threading.BoundedSemaphore(4 * (os.cpu_count() or 1))
"""Clones that come to life at a time: of hundreds at once, each would be too slow for its trial."""

_WATCH: Final = 2.0
"""Seconds after a clone's first answer in which its death is blamed on the snapshot."""

_AGAIN: Final = 0.1
"""Seconds in which a start that another one follows must have seen that."""

_MEETING: Final = 300.0
"""Seconds in which all must be loaded that come back together; whole memories may be read."""

_PANIC_LINES: Final = 100
"""Console lines in which a panic is looked for: its report can be that long."""

_BEFORE_PANIC: Final = 5
"""Console lines before a panic that are shown with it: what died may have said why."""


class Stage(StrEnum):
    """How far a machine has come."""

    OFF = "off"
    VMM = "VMM started"
    KERNEL = "kernel"
    INIT = "init"
    AGENT = "agent"
    READY = "ready"

    def reached(self, other: Stage) -> bool:
        """This stage is ``other``, or a later one."""
        order = list(Stage)
        return order.index(self) >= order.index(other)


class Boot(Protocol):
    """Starts a machine's VMM."""

    def __call__(
        self,
        allow_reboot: bool,
        saved: Saved | None,
        on_exit: Callable[[VmmExit], None],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> Vmm:
        """Start it.

        Args:
            allow_reboot: The guest may reboot.
            saved: The snapshot that it continues; without, it boots.
            on_exit: Called when the VMM has ended.
            on_event: Called with each of the VMM's events.
        """


def _agent_channel(name: str, sock: socket.socket, padding: bool) -> Channel:
    return AgentChannel(name, sock, padding=padding)


@dataclass(frozen=True)
class MachineContext:
    """What a machine needs of its cluster.

    Attributes:
        events: Where it reports.
        vmm: Its VMM's program, with version and path.
        boot: Starts its VMM.
        origin: The snapshot that it starts from, or None to boot; may take as long as a boot, and
            ends with `attest.scope.Cancelled` when the machine is not wanted any more.
        spoilt: Told why what ``origin`` gave did not restore; returns whether to boot instead.
        identity: Who it is to become; None when that is the guest's own business.
        snapshot: Saves it as it is, under a name.
        set_links: Plugs or unplugs its network cards.
        ready_unit: The systemd unit that must be active before it is ready; empty: none.
        start_timeout: Seconds from start to ready.
        out_dir: Where its logs and the test's artefacts go.
        state_dir: The machine's own scratch directory.
        shared_dir: The directory on this host that all machines may share.
        on_fatal: Called when the run cannot go on: a kernel panic, a VMM that died.
        channel: Makes the connection to the guest of a socket; told whether that may carry remains
            of an earlier session.
    """

    events: EventLog
    vmm: str
    boot: Boot
    origin: Callable[[], Saved | None]
    spoilt: Callable[[str], bool]
    identity: Callable[[], Identity] | None
    snapshot: Callable[[str], Snapshot]
    set_links: Callable[[Vmm, bool], None]
    ready_unit: str
    start_timeout: float
    out_dir: Path
    state_dir: Path
    shared_dir: Path
    on_fatal: Callable[[AttestError], None]
    channel: Callable[[str, socket.socket, bool], Channel] = _agent_channel


@dataclass(frozen=True)
class Return:
    """A machine that comes back to an earlier moment of its own.

    Attributes:
        saved: That moment.
        reason: What is told to whoever was using it.
        channel: Its connection, which goes on; None when it had none.
        together: Passed by all that come back at one moment, before any of them runs.
    """

    saved: Saved
    reason: str
    channel: Channel | None
    together: threading.Barrier


@dataclass
class _Trial:
    """Of a VMM: without having passed, its end is not that of the machine.

    Attributes:
        passed: It has.
        since: When it passed, of a clone; its death soon after is blamed on the snapshot.
    """

    passed: bool
    since: float | None = None

    @property
    def watched(self) -> bool:
        """It is a clone that has passed a moment ago."""
        return self.since is not None and time.monotonic() - self.since < _WATCH


class Life:
    """A machine that has been started; it comes up in a thread of its own.

    Args:
        name: The machine's name.
        context: What it needs of its cluster.
        allow_reboot: A reboot of the guest boots it again, instead of ending it.
        back: It comes back to an earlier moment, and stays who it was then.

    Attributes:
        stage: How far it has come.
        ending: Its end is wanted: it is no failure.
    """

    _starter: threading.Thread

    def __init__(
        self, name: str, context: MachineContext, allow_reboot: bool, back: Return | None = None
    ) -> None:
        self.allow_reboot = allow_reboot
        self.ending = False
        self.stage = Stage.OFF
        self._name = name
        self._context = context
        self._back = back
        self._events = context.events
        self._panic = ""
        self._failure: AttestError | None = None
        self._died: MachineError | None = None
        self._channel_or_none = back.channel if back else None
        self._cloned = False
        self._introduced = False
        self._starts = 0
        self._used = False
        self._trial = _Trial(passed=True)
        self._trial_lock = threading.Lock()
        self._scope = Scope()
        self._ready = threading.Event()
        self._rebooted = threading.Event()
        self._launched = threading.Event()
        self._begin_clock()
        self._begin_thread(self._start)

    # What a machine asks of its life

    @property
    def ended(self) -> bool:
        """Its VMM has ended, or could not be started."""
        if not self._launched.is_set():
            return False
        return self._failure is not None if self.stage is Stage.OFF else self._vmm.exit is not None

    @property
    def absence(self) -> str:
        """Why nobody is there; empty when its agent answers, and has been told who it is."""
        if not self.ended:
            return "" if self._introduced else f"coming up [stage: {self.stage}]"
        if self.stage is Stage.OFF and self._failure is not None:
            return self._failure.message
        if self._panic:
            return f"kernel panic: {self._panic}"
        exit = self._vmm.exit
        failed = exit is not None and exit.status != 0 and not self.ending
        return f"the VMM ended ({exit})" if failed else "off"

    @property
    def death(self) -> MachineError | None:
        """How it ended, where nobody wanted that; None while it goes on, or powered off."""
        self._hear_of_end()
        return self._died

    def accept_death(self) -> None:
        """Take its end, however it came, for one that was wanted."""
        self._hear_of_end()
        self._died = None

    @property
    def vmm(self) -> Vmm:
        """Its VMM, as soon as that has been started."""
        self._await_launch()
        return self._vmm

    @property
    def console(self) -> Console:
        """Its console, as soon as its VMM has been started."""
        self._await_launch()
        return self._console

    def ready(self) -> Channel:
        """The channel, once the machine is ready.

        Raises:
            MachineError: It did not come up.
        """
        while True:
            self._ready.wait()
            with self._trial_lock:
                if self._ready.is_set():  # else the clone has died just now, and boots
                    self._used = True
                    break
        if self._failure is not None:
            raise self._failure
        return self._channel

    def kill(self) -> None:
        """End it at once and wait until its threads are gone; a second time does nothing."""
        channel = self.leave("the channel is closed")
        if channel is not None:
            channel.close()

    def leave(self, reason: str) -> Channel | None:
        """End it as `kill` does, and return its channel, on which all has failed with ``reason``.

        The channel is the caller's from now on; there is none when the VMM did not start.
        """
        self._hear_of_end()
        with self._trial_lock:
            self.ending = True
        self._scope.cancel()
        self._launched.wait()
        channel = self._channel_or_none
        if channel is not None:
            channel.interrupt(reason)
        if self.stage is not Stage.OFF:
            self._vmm.kill()
            self._console.join()
        self._starter.join()
        return channel

    def reboot(self, timeout: float) -> None:
        """Tell the guest to reboot, and wait until it is ready again."""
        channel = self.ready()
        self._rebooted.clear()  # it may have rebooted by itself before
        channel.power(PowerAction.REBOOT)
        if not self._rebooted.wait(timeout) or self._vmm.exit is not None:
            raise self._error(f"did not reboot in {timeout:g} s")
        self.ready()

    def begin_anew(self, reason: str) -> None:
        """Wait for its agent as after a start: the guest begins anew, its VMM going on.

        Whatever is under way in it fails with ``reason``.
        """
        self._ready.clear()
        self._introduced = False
        self.stage = Stage.VMM
        self._begin_clock()
        self._starts += 1
        self._starter = threading.Thread(
            target=self._restart,
            args=(reason, self._starts, self._starter),
            name=f"restart {self._name}",
            daemon=True,
        )
        self._starter.start()

    def reach_again(self, reason: str) -> None:
        """Connect to the agent anew where the connection did not outlive that it was saved.

        Whatever is under way on it fails with ``reason``.

        Raises:
            MachineError: The agent does not answer.
        """
        if self._vmm.channel == "vsock":
            try:
                self._greet(_TRIAL, reason)
            except ChannelError as error:
                explained = self.explain(error)
                if explained is error:
                    explained = self._error(
                        f"{reason}, and does not answer since: {error.reason}", error.attempts
                    )
                raise explained from None

    def explain(self, error: MachineError) -> MachineError:
        """What became of the machine in which something failed with ``error``."""
        if not isinstance(error, ChannelError):
            return error
        exit = self._vmm.wait(_REAPED)
        if self._panic:
            return self._error(f"kernel panic: {self._panic}")
        if exit is not None and not self.ending:
            return self._ended_error(exit)
        return error

    # Coming up

    @property
    def _channel(self) -> Channel:
        assert self._channel_or_none is not None, "it is there as soon as the VMM has been started"
        return self._channel_or_none

    def _launch(self, start: Callable[[], None]) -> None:
        try:
            start()
        except Exception as error:  # whatever it is, nobody may wait for this machine for ever
            self._fail(error if isinstance(error, AttestError) else self._not_started(error))
            return
        finally:
            self._launched.set()
        self._come_up(self._starts)

    def _start(self) -> None:
        with self._scope.entered():
            saved = self._back.saved if self._back else self._context.origin()
        self._begin_clock()
        if saved is not None:
            # Those that come back together need each other.
            with nullcontext() if self._back else _TURNS:
                self._scope.check()
                self._clone(saved)
        if not self._cloned:
            self._start_vmm(None)

    def _start_over(self) -> None:
        self._end_trial()
        self._cloned = False
        self._begin_clock()
        self._start_vmm(None)

    def _begin_thread(self, start: Callable[[], None]) -> None:
        self._starter = threading.Thread(
            target=self._launch, args=(start,), name=f"start {self._name}", daemon=True
        )
        self._starter.start()

    def _start_vmm(self, saved: Saved | None) -> None:
        trial = self._trial
        self._vmm = self._context.boot(
            self.allow_reboot, saved, lambda exit: self._vmm_ended(exit, trial), self._vmm_event
        )
        self._console = Console(
            self._name,
            self._vmm.console,
            self._context.out_dir / f"console-{self._name}.log",
            on_line=self._console_line,
            on_alarm=self._alarm,
            on_trouble=self._console_trouble,
        )
        self._reach(Stage.VMM, vmm=self._context.vmm)

    def _greet(self, timeout: float, reason: str = "the machine starts") -> None:
        """Reach the agent and greet it, on the channel that there was before, if there was one.

        What was under way on that fails with ``reason``.
        """
        try:
            self._vmm.dial(
                lambda sock, limit: self._greet_on(sock, limit, reason),
                timeout,
                lambda: f"kernel panic: {self._panic}" if self._panic else "",
            )
        except DialError as error:
            raise ChannelError(self._name, str(error), attempts=error.attempts) from None

    def _greet_on(self, sock: socket.socket, limit: float, reason: str) -> None:
        serial = self._vmm.channel == "serial"
        if self._channel_or_none is None:
            # A clone's agent may have been saved in the middle of a frame.
            padding = serial and self._cloned
            self._channel_or_none = self._context.channel(self._name, sock, padding)
        else:
            self._channel.reconnect(sock, reason, padding=serial)
        self._channel.connect(limit)

    def _clone(self, saved: Saved) -> None:
        """Start it from a snapshot; it is no clone when it did not come to life and shall boot."""
        self._trial = _Trial(passed=False)
        self._cloned = True
        try:
            self._start_vmm(saved)
            if self._back is not None:
                self._back.together.wait(_MEETING)
            self._vmm.resume()
            self._greet(_TRIAL, self._back.reason if self._back else "the machine starts")
            self._introduce()
            self._pass_trial()
        except Exception as error:  # the VMM's refusals are many
            if self._back is not None:
                self._back.together.abort()
            if isinstance(error, ChannelError):
                error = self.explain(error)
            self._end_trial()
            if self.ending:
                raise
            why = _reason(error)
            if self._back or not self._context.spoilt(why):
                message = f"did not come back from its snapshot: {why}"
                raise MachineError(self._name, message) from error
            self._cloned = False
            self._begin_clock()

    def _pass_trial(self) -> None:
        with self._trial_lock:
            if self._vmm.exit is not None:
                raise self._ended_error(self._vmm.exit)
            self._trial.passed = True
            self._trial.since = time.monotonic()

    def _end_trial(self) -> None:
        if self.stage is not Stage.OFF:
            self._vmm.kill()
            self._console.join()
        if self._channel_or_none is not None:
            self._channel_or_none.close()
        self._channel_or_none = None
        self._introduced = False
        self.stage = Stage.OFF
        self._panic = ""
        self._trial = _Trial(passed=True)

    def _come_up(self, start: int) -> None:
        try:
            if not self._cloned:
                self._greet(self._left())
                self._introduce()
                self._await_unit()
        except Exception as error:  # whatever it is, as in `_launch`
            if start == self._starts:  # else the guest has begun anew meanwhile, and failed nothing
                self._fail(self._not_up(error))
        else:
            self._reach(Stage.READY, seconds=round(time.monotonic() - self._started, 3))
            self._ready.set()

    def _not_up(self, error: Exception) -> MachineError:
        if isinstance(error, WaitFailed):
            return self._error(f"started, but is not ready: {error.message}")
        if isinstance(error, MachineError):
            return self._explain_start(error)
        return self._error(f"did not come up: {error!r}")

    def _introduce(self) -> None:
        """Tell the agent who it is."""
        self._reach(Stage.AGENT)
        if self._context.identity is not None:
            self._channel.identity(self._identity(self._context.identity()))
        self._introduced = True

    def _identity(self, identity: Identity) -> Identity:
        if self._back is not None:
            return Identity(hosts=identity.hosts, seed=identity.seed, clock_ns=identity.clock_ns)
        return replace(identity, copy=True) if self._cloned else identity

    def _await_unit(self) -> None:
        unit = self._context.ready_unit
        if unit and self._channel.welcome.init == "systemd":
            self._channel.start_wait(WaitKind.UNIT, unit, timeout=self._left()).result()

    def _explain_start(self, error: MachineError) -> MachineError:
        explained = self.explain(error)
        if explained is not error:
            return explained
        if time.monotonic() < self._deadline:
            return self._error(f"did not come up: {error.reason}", error.attempts)
        return self._error(
            f"did not come up in {self._context.start_timeout:g} s; the last stage that it reached "
            f"is: {self.stage}",
            attempts=[*error.attempts, error.reason],
        )

    def _not_started(self, error: Exception) -> MachineError:
        return MachineError(self._name, f"its VMM could not be started: {error}")

    def _fail(self, failure: AttestError) -> None:
        self._failure = failure
        self._ready.set()
        if not self.ending:
            self._context.on_fatal(failure)

    def _begin_clock(self) -> None:
        self._started = time.monotonic()
        self._deadline = self._started + self._context.start_timeout

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def _await_launch(self) -> None:
        self._launched.wait()
        if self.stage is Stage.OFF and self._failure is not None:
            raise self._failure

    def _error(self, message: str, attempts: list[str] | None = None) -> MachineError:
        console = self._console.last_lines(_PANIC_LINES if self._panic else 20)
        if self._panic in console:  # what comes long before is the tail of something else
            console = console[max(console.index(self._panic) - _BEFORE_PANIC, 0) :]
        return MachineError(
            self._name,
            f"{message} [stage: {self.stage}]",
            console=console,
            log=str(self._console.log),
            attempts=attempts,
        )

    def _ended_error(self, exit: VmmExit) -> MachineError:
        error = self._error(f"the VMM ended ({exit})")
        if self.stage is Stage.VMM and exit.status == 0 and not exit.stderr:
            error.hint = "a kernel that ends without a word mostly has too little memory"
        return error

    def _reach(self, stage: Stage, **data: Any) -> None:
        if not self.stage.reached(stage):
            self.stage = stage
            self._events.emit(Kind.STAGE, stage, machine=self._name, **data)

    # What happens to it

    def _hear_of_end(self) -> None:
        """Wait for what an end that has come already means, lest it pass for one that is wanted."""
        if self._launched.is_set() and self.stage is not Stage.OFF and self._vmm.exit is not None:
            self._vmm.kill()

    def _console_line(self, line: str) -> None:
        if line == "attest-stage: init":
            self._reach(Stage.INIT)
        elif self.stage is Stage.VMM:
            self._reach(Stage.KERNEL)
        self._events.emit(Kind.CONSOLE, line, machine=self._name)

    def _alarm(self, alarm: Alarm, line: str) -> None:
        self._events.emit(Kind.ALARM, f"{alarm}: {line}", machine=self._name)
        if alarm is Alarm.PANIC:
            # The lines that follow say where. The VMM ends by itself (panic=-1): see `_vmm_ended`.
            self._panic = line

    def _console_trouble(self, trouble: str) -> None:
        self._events.emit(Kind.WARNING, trouble, machine=self._name)

    def _vmm_event(self, event: str, data: dict[str, Any]) -> None:
        if event != "RESET" or not data.get("guest") or self.ending:
            return
        self._events.emit(Kind.ACTION, "the guest reboots", machine=self._name)
        self.begin_anew("the machine reboots")

    def _restart(self, reason: str, start: int, before: threading.Thread) -> None:
        # A guest that is told to reboot in several ways at once resets several times.
        self._channel.interrupt(reason)
        while before.is_alive():
            before.join(_AGAIN)
            self._channel.interrupt(reason)  # that one may have greeted just then
        if start != self._starts:
            return
        self._cloned, self._back = False, None  # it boots, as any machine
        self._rebooted.set()
        self._come_up(start)

    def _vmm_ended(self, exit: VmmExit, trial: _Trial) -> None:
        with self._trial_lock:
            if not trial.passed:
                return  # `_clone` tells
        self._launched.wait()
        if self.stage is Stage.OFF:
            return  # it could not be started, which `_launch` tells
        self._console.join()
        self._rebooted.set()  # it never will: nobody needs to wait for it
        metrics = {"metrics": dict(exit.metrics)} if exit.metrics else {}
        self._events.emit(Kind.EXIT, f"the VMM ended ({exit})", machine=self._name, **metrics)
        if self.ending:
            return
        error = self._death(exit)
        if error is None:
            return
        if trial.watched and self._back is None:
            self._lose_clone(trial, error)
        else:
            self._die(error)

    def _die(self, error: MachineError) -> None:
        self._died = error
        self._context.on_fatal(error)

    def _death(self, exit: VmmExit) -> MachineError | None:
        """What the end of the VMM means; None when the guest powered off."""
        if self._panic:
            return self._error(f"kernel panic: {self._panic}")
        return self._ended_error(exit) if exit.status != 0 else None

    def _lose_clone(self, trial: _Trial, error: MachineError) -> None:
        """A clone has died a moment after its first answer: the snapshot is of no use."""
        assert trial.since is not None
        seconds = time.monotonic() - trial.since
        boots = self._context.spoilt(
            f"it died {seconds:.1f} s after its first answer: {error.reason}"
        )
        with self._trial_lock:
            boots = boots and not self._used and not self.ending
            if boots:
                self._ready.clear()
                self._launched.clear()
                self._begin_thread(self._start_over)
        if not boots:
            error.hint = (
                f"it died {seconds:.1f} s after it had been restored from a snapshot, which its "
                "kernel may not survive; the snapshot was removed"
            )
            self._die(error)


def _reason(error: Exception) -> str:
    """What an error says, without the name of the machine."""
    if isinstance(error, MachineError):
        return error.reason
    return error.message if isinstance(error, AttestError) else str(error) or repr(error)
