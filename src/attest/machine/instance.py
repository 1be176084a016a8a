"""One running guest behind a machine, from the start of its VMM to its end.

What an instance does is decided by `attest.machine.instance_transitions.advance`. Whoever learns
something posts an event: takes the lock, advances the state, wakes those who wait, and goes on.
What takes long (finding a snapshot, starting the VMM, greeting the agent) is done by one worker, a
thread that is there only while there is something to do.

Threads that come here:

- the user's, by the public methods, from several threads at once;
- the worker, which carries out effects one after the other, in their order;
- the VMM's watcher, when the VMM has ended; the console's reader, with each line; a thread of the
  VMM's, with its events. These must not wait for the worker.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from attest.errors import (
    AttestError,
    ChannelError,
    CommandFailed,
    MachineError,
    UsageError,
    reason_of,
)
from attest.events import Kind
from attest.guest.channel import Channel, Command, PowerAction, WaitFor, WaitKind
from attest.guest.console import Alarm, Console
from attest.guest.identity import Identity
from attest.machine import diagnosis
from attest.machine.contracts import Ahead, InstanceContext, Source, Template
from attest.machine.instance_events import (
    AgentAnswered,
    BeginAnew,
    Called,
    CameUp,
    CameUpAhead,
    ComeUp,
    ConsoleSpoke,
    Discard,
    Effect,
    EndAccepted,
    EndRetracted,
    EndWanted,
    Event,
    FindSource,
    GiveUpTemplate,
    GuestReset,
    Interrupt,
    Introduced,
    Join,
    KillVmm,
    KillWanted,
    Panicked,
    PowerOffBegun,
    RebootWanted,
    ReportSpoilt,
    Served,
    SourceFound,
    StartFailed,
    StartVmm,
    StoodStill,
    TellExit,
    TellFatal,
    TellReset,
    TellStage,
    TryClone,
    Used,
    VmmExited,
    VmmStarted,
)
from attest.machine.instance_states import Phase, Stage, StartKind, State
from attest.machine.instance_transitions import advance
from attest.machine.meeting import Meeting, MeetingFailed
from attest.support.cancellation import Cancelled, CancelScope
from attest.support.excerpt import short_line
from attest.vmm.base import DialError, Saved, Vmm, VmmExit

__all__ = ["Instance", "Return"]

_TURNS: Final = threading.BoundedSemaphore(4 * (os.cpu_count() or 1))
"""Clones that come to life at a time: of hundreds at once, each would be too slow for its trial."""

_STARTS: Final = "the machine starts"

_REHEARSAL: Final = Command("true", timeout=10.0, strict=True)
"""What is run in a machine that has come up ahead of its start."""

_POWER_OFF: Final = "attest-stage: power off"
"""What a guest says on its console that is about to power itself off by a reset."""

_EVIDENCE: Final = 10
"""Console lines that the error of something that was done in the machine shows."""


class Return(msgspec.Struct, frozen=True):
    """An earlier moment of a machine to which it comes back.

    Attributes:
        saved: What was saved then.
        reason: What is told to whoever was using the machine.
        channel: Its connection, which goes on; None when it had none.
        meeting: Where it meets all others that come back to that moment.
    """

    saved: Saved
    reason: str
    channel: Channel | None
    meeting: Meeting


class Superseded(Exception):
    """What is being done is for an attempt that is over."""


class Instance:
    """A guest from the start of its VMM to its end.

    A machine's `Lifecycle` makes one for each start, and has the present one as ``instance``; what
    boots a template for the cache makes its own. It comes up in a thread of its own: making one
    returns at once, and `ready` waits. Whoever makes one ends it: `kill` ends its VMM and its
    threads. A VMM that ends by itself leaves nothing behind, and `kill` then does nothing more.

    Public methods may be called from several threads at once. What is told to the context, such as
    ``on_fatal``, is told in the instance's worker, which therefore must not wait for the instance.

    Example::

        from attest.guest.channel import Command

        machine.start()
        instance = machine._lifecycle.instance
        channel = instance.ready()
        assert channel.run(Command("hostname")).status == 0
        assert instance.stage == "ready"

        instance.kill()
        assert instance.ended
        assert instance.death is None  # this end was wanted

    Args:
        name: The machine's name.
        context: What it needs of its cluster.
        source: What it starts from.
        allow_reboot: A reboot of the guest boots it again, instead of ending it.
        back: It comes back to an earlier moment, and stays who it was then.
        ahead: It comes up ahead of its machine's start, which `call` tells; until then nobody else
            in its cluster can tell that it is there.

    Attributes:
        allow_reboot: A reboot of the guest boots it again.
    """

    def __init__(
        self,
        name: str,
        context: InstanceContext,
        source: Source,
        *,
        allow_reboot: bool,
        back: Return | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self.allow_reboot = allow_reboot
        self._name = name
        self._context = context
        self._source = source
        self._back = back
        self._ahead = ahead  # until it has joined the others
        self._console_log = ahead.console_log if ahead else context.console_log
        self._events = context.events
        self._limits = context.limits
        self._scope = CancelScope()
        # Entered as a lock: a signal that raises can interrupt a condition's own entry half-way.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state = State(
            kind=StartKind.RETURN if back else StartKind.BOOT,
            ahead=ahead is not None,
            joins=ahead is not None,
        )
        self._queue: deque[Effect] = deque([FindSource()])
        self._worker: threading.Thread | None = None
        self._vmm: Vmm | None = None
        self._console: Console | None = None
        self._channel = back.channel if back else None
        self._channel_lock = threading.RLock()
        self._greeted_in = 0  # the attempt in which the channel's session was begun
        self._early_exit: VmmExit | None = None
        self._has_turn = False
        self._prepared = False
        self._template: Template | None = None
        self._was_saved = False
        self._left = "the machine was ended"

    def begin(self) -> None:
        """Begin to come up. Whoever made it has it by then, and can end it in any case."""
        with self._lock:
            self._employ()

    def call(self) -> None:
        """Let it join the others, as soon as it has come up: its machine is started."""
        with self._lock:
            self._console_log = self._context.console_log
            if self._console is not None:
                try:
                    self._console.move_log(self._console_log)
                except OSError as error:
                    self._console_trouble(f"{self._console_log} is incomplete: {error.strerror}")
        self._post(Called(time.monotonic()))

    def await_standby(self) -> None:
        """Wait until it stands by, or cannot, or was called."""
        with self._lock:
            self._changed.wait_for(
                lambda: (
                    self._state.phase is Phase.STANDBY
                    or not self._state.ahead
                    or not self.may_be_called
                )
            )

    # What its machine asks of it

    @property
    def may_be_called(self) -> bool:
        """Whether it has come up ahead, or may still do."""
        return self._state.phase not in (Phase.FAILED, Phase.STOPPING, Phase.OFF)

    @property
    def stage(self) -> Stage:
        """How far the guest has come since this instance began, or since it rebooted."""
        return self._state.stage

    @property
    def ended(self) -> bool:
        """Whether its VMM has ended, or could not be started; that of a clone may boot instead."""
        return self._state.phase is Phase.OFF

    @property
    def absence(self) -> str:
        """Why nobody is there; empty when its agent answers, and has been told who it is."""
        vmm = self._vmm
        exit = vmm.exit if vmm is not None and self._state.launched else None
        return diagnosis.absence(self._state, exit)

    @property
    def death(self) -> AttestError | None:
        """How it ended, where nobody wanted that; None while it goes on, or powered off."""
        self._await_end_heard()
        outcome = self._state.outcome
        return outcome.error if outcome is not None and outcome.died else None

    @property
    def vmm(self) -> Vmm:
        """Its VMM, as soon as that has been started, and was saved if it is to be; waits for that.

        Raises:
            AttestError: It could not be started.
        """
        return self._undisturbed()[0]

    @property
    def console(self) -> Console:
        """Its console, as soon as its VMM has been started; waits for that.

        Raises:
            AttestError: It could not be started.
        """
        return self._launched()[1]

    @property
    def keyboard(self) -> Console:
        """The same as soon as one may type there; waits for that.

        Raises:
            AttestError: Its VMM could not be started.
        """
        return self._undisturbed()[1]

    def console_lines(self, count: int) -> list[str]:
        """The last lines of its console; none before its VMM runs. Waits for nothing."""
        console = self._console
        return console.last_lines(count) if console is not None else []

    def console_text(self) -> str:
        """All that its console has shown; waits for nothing."""
        console = self._console
        return console.text() if console is not None else ""

    def console_evidence(self) -> dict[str, list[str]]:
        """What its console has shown last, for the error of something that was done in it."""
        lines = [short_line(line) for line in self.console_lines(_EVIDENCE)]
        return {f"last console lines of {self._name}": lines}

    def ready(self) -> Channel:
        """The channel, once the machine is ready; waits for that.

        Raises:
            AttestError: It did not come up, or was ended meanwhile.
        """
        with self._lock:
            self._changed.wait_for(lambda: self._state.settled)
            if self._state.up:
                self._advance(Used())
                assert self._channel is not None, "an agent has answered"
                return self._channel
            raise self._why_not_there()

    def answering(self) -> Channel | None:
        """The channel, if the machine is ready now; waits for nothing."""
        with self._lock:
            return self._channel if self._state.up else None

    def served(self) -> None:
        """Learn that it has done something that the test wanted."""
        if not self._state.served:
            self._post(Served())

    def want_end(self) -> None:
        """Take its end for one that is wanted, from now on; not one that has come already."""
        self._await_end_heard()
        self._post(EndWanted())

    def retract_end(self) -> None:
        """Take its end for a failure again, as the one that was wanted did not come."""
        self._post(EndRetracted())

    def accept_death(self) -> None:
        """Take its end, however it came, for one that was wanted."""
        self._await_end_heard()
        self._post(EndAccepted())

    def kill(self) -> None:
        """End it at once, and wait until nothing is done for it any more.

        A second time does nothing, and a call that was interrupted can be made again.
        """
        self._leave("the machine was ended", "the channel is closed")
        channel = self.take_channel()
        if channel is not None:
            channel.close()

    def leave(self, reason: str) -> None:
        """End it as `kill` does; all on its channel fails with ``reason``, and that stays open."""
        self._leave(reason, reason)

    def take_channel(self) -> Channel | None:
        """Its channel, after `leave`; it is the caller's alone from now on. None if it has none."""
        with self._channel_lock:
            channel, self._channel = self._channel, None
        return channel

    def _leave(self, reason: str, interruption: str) -> None:
        self._await_end_heard()
        self._left = reason
        self._post(KillWanted(interruption))
        self._scope.cancel()
        if self._back is not None:
            self._back.meeting.call_off(self._name, reason)
        with self._lock:
            self._changed.wait_for(lambda: self._state.launched)
        self._interrupt(interruption, self._state.attempt + 1)
        self._end_vmm()  # again, if the one before was interrupted
        with self._lock:
            self._changed.wait_for(self._is_over)

    def _is_over(self) -> bool:
        return self._state.phase is Phase.OFF and not self._queue and self._worker is None

    def reboot(self, timeout: float) -> bool:
        """Tell the guest to reboot, and wait until it is ready again.

        Args:
            timeout: Seconds until the guest must have been reset.

        Returns:
            False where it was not: it goes on, and is not expected to reboot any more.

        Raises:
            AttestError: It ended instead, or does not come up.
        """
        channel = self.ready()
        before = self._state.resets

        def rebooted() -> bool:
            return self._state.resets > before or self._state.phase is Phase.OFF

        self._post(RebootWanted(True))
        try:
            channel.power(PowerAction.REBOOT)
            with self._lock:
                self._changed.wait_for(rebooted, timeout)
        finally:
            if not rebooted():  # nor is it expected to any more
                self._post(RebootWanted(False))
        if not rebooted():
            return False
        if self._state.phase is Phase.OFF:
            outcome = self._state.outcome
            why = outcome is not None and outcome.error is not None
            raise self._why_not_there() if why else self._error("ended instead of rebooting")
        self.ready()
        return True

    def ask(self, command: str, timeout: float) -> str:
        """What a command says in a guest that may be on its way out; empty where it says nothing.

        Args:
            command: For the guest's shell.
            timeout: Seconds in which it must have said it.
        """
        if (channel := self.answering()) is None:
            return ""
        try:
            process = channel.start(Command(command, timeout=timeout))
        except MachineError:
            return ""
        try:
            return process.wait(timeout).stdout.decode(errors="replace")
        except (MachineError, TimeoutError):
            process.abandon()
            return ""

    def begin_anew(self, reason: str) -> None:
        """Wait for its agent as after a start: the guest begins anew, its VMM going on.

        Whatever is under way in it fails with ``reason``.
        """
        self._post(BeginAnew(time.monotonic(), reason))

    def reach_again(self, reason: str) -> None:
        """Connect to the agent anew where the connection did not outlive that it was saved.

        Whatever is under way on it fails with ``reason``.

        Raises:
            MachineError: The agent does not answer.
        """
        vmm = self.vmm
        try:
            self._greet_saved(vmm, self._state.attempt, reason)
        except Superseded:  # it begins anew, and is greeted by the worker
            return
        except ChannelError as error:
            explained = self.explain(error)
            if explained is error:
                message = f"{reason}, and does not answer since: {error.reason}"
                explained = self._error(message, error.attempts)
            raise explained from None

    def explain(self, error: MachineError) -> MachineError:
        """What became of the machine in which something failed with ``error``."""
        vmm, console = self._vmm, self._console
        if not isinstance(error, ChannelError) or vmm is None or console is None:
            return error
        exit = vmm.wait(self._limits.reaped)
        if exit is not None:
            console.join()  # its last lines may say why
            if self._boots_again(vmm):
                return ChannelError(self._name, "the machine reboots")
        state = self._state
        if state.panic:
            return self._error(f"kernel panic: {state.panic}")
        if exit is not None and not state.ending:
            return diagnosis.exit_error(self._name, exit, state, console)
        return error

    def _boots_again(self, vmm: Vmm) -> bool:
        """Whether a VMM that has ended is followed by another one; waits until that is decided."""

        def decided() -> bool:
            over = self._state.phase in (Phase.STARTING, Phase.OFF)
            return over or self._vmm is not vmm

        with self._lock:
            self._changed.wait_for(decided, self._limits.reaped)
            return decided() and self._state.phase is not Phase.OFF

    # Events and effects

    def _post(self, event: Event) -> None:
        """Take in what has happened. Called from any thread; waits for nothing."""
        with self._lock:
            effects = self._advance(event)
        for effect in effects:
            self._carry_out(effect)

    def _advance(self, event: Event) -> list[Effect]:
        """Advance the state, under the lock; returns the effects that are the poster's to do."""
        self._state, effects = advance(self._state, event, self._limits)
        for each in effects:
            if isinstance(each, TellFatal) and each.seconds is not None:
                diagnosis.blame_snapshot(each.error, each.seconds)  # before anybody meets it
        at_once: list[Effect] = [each for each in effects if isinstance(each, _AT_ONCE)]
        self._queue.extend(each for each in effects if not isinstance(each, _AT_ONCE))
        self._changed.notify_all()
        if self._queue:
            self._employ()
        return at_once

    def _employ(self) -> None:
        """Have a worker, under the lock. One that is not needed goes by itself."""
        if self._worker is None:
            name = f"instance {self._name}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        with self._lock:
            if self._worker is not None:
                return
            self._worker = threading.current_thread()
        while True:
            with self._lock:
                if self._state.phase not in (Phase.STARTING, Phase.ON_TRIAL):
                    self._give_turn()
                if not self._queue and self._template is None:
                    self._worker = None
                    self._changed.notify_all()
                    return
                effect = self._queue.popleft() if self._queue else GiveUpTemplate()
            try:
                self._carry_out(effect)
            except BaseException as error:  # others wait for what follows
                self._effect_failed(effect, error)

    def _effect_failed(self, effect: Effect, error: BaseException) -> None:
        if isinstance(effect, StartVmm | TryClone | ComeUp | Join):
            failure = MachineError(self._name, f"did not come up: {reason_of(error)}")
            self._post(StartFailed(effect.attempt, time.monotonic(), failure))
        else:
            text = f"{type(effect).__name__}: {reason_of(error)}"
            self._events.emit(Kind.WARNING, text, machine=self._name)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case FindSource():
                self._find_source()
            case StartVmm(attempt=attempt, saved=saved):
                self._start_vmm(attempt, saved)
            case TryClone(attempt=attempt):
                self._try_clone(attempt)
            case ComeUp(attempt=attempt):
                self._come_up(attempt)
            case Join(attempt=attempt):
                self._join(attempt)
            case Interrupt(reason=reason, before=before):
                self._interrupt(reason, before)
            case KillVmm():
                self._end_vmm()
            case Discard():
                self._discard()
            case GiveUpTemplate():
                self._give_up_template()
            case ReportSpoilt(error=error, seconds=seconds):
                self._report_spoilt(error, seconds)
            case TellFatal(error=error):
                self._context.on_fatal(error)
            case _:
                self._tell(effect)

    def _tell(self, effect: Effect) -> None:
        match effect:
            case TellStage(stage=stage, seconds=seconds):
                data: dict[str, Any] = {"seconds": seconds} if seconds is not None else {}
                if stage is Stage.VMM:
                    data["vmm"] = self._context.vmm
                self._events.emit(Kind.STAGE, stage, machine=self._name, **data)
            case TellReset():
                self._events.emit(Kind.ACTION, "the guest reboots", machine=self._name)
            case TellExit(exit=exit):
                metrics = {"metrics": dict(exit.metrics)} if exit.metrics else {}
                text = f"the VMM ended ({exit})"
                self._events.emit(Kind.EXIT, text, machine=self._name, **metrics)

    # What the worker does

    def _find_source(self) -> None:
        if self._state.phase is not Phase.PENDING:
            return
        attempt = self._state.attempt
        try:
            with self._scope.entered():
                found = self._back.saved if self._back else self._source.find()
        except Exception as error:  # whatever it is, nobody may wait for this machine for ever
            self._post(StartFailed(attempt, time.monotonic(), self._not_started(error)))
        else:
            saved = found if isinstance(found, Saved) else None
            self._template = None if isinstance(found, Saved) else found
            is_template = self._template is not None
            may_boot = self._source.may_boot
            self._post(SourceFound(attempt, time.monotonic(), saved, may_boot, is_template))

    def _start_vmm(self, attempt: int, saved: Saved | None) -> None:
        self._early_exit = None
        self._give_up_template_after_reset()
        if saved is not None and self._back is None:  # those that come back need each other
            self._take_turn()
        try:
            if self._state.killed:
                raise MachineError(self._name, self._left)
            told = (partial(self._vmm_exited, attempt), partial(self._vmm_told, attempt))
            if self._ahead and self._state.ahead:
                self._ahead.set_cables(False)
            if self._template is not None:
                vmm = self._template.start_vmm(self.allow_reboot, *told)
            else:
                vmm = self._context.start_vmm(self.allow_reboot, saved, *told)
            self._join_console(attempt, vmm)
            if self._state.resets:
                self._context.keep_links(vmm)
        except Exception as error:
            failure = self._not_back(error) if saved is not None else self._not_started(error)
            self._post(StartFailed(attempt, time.monotonic(), failure))
        else:
            self._post(VmmStarted(attempt))
            self._hear_early_exit(attempt)

    def _join_console(self, attempt: int, vmm: Vmm) -> None:
        self._vmm, self._console = vmm, None
        try:
            with self._lock:  # it may be called at this moment
                self._console = Console(
                    self._name,
                    vmm.console,
                    self._console_log,
                    on_line=partial(self._console_line, attempt),
                    on_alarm=partial(self._alarm, attempt),
                    on_trouble=self._console_trouble,
                )
        except BaseException:
            vmm.abandon()
            self._vmm = None
            raise

    def _try_clone(self, attempt: int) -> None:
        """Bring a VMM that has loaded a snapshot to life."""
        back = self._back
        try:
            assert self._vmm is not None, "it was started"
            if back is not None:
                back.meeting.arrive(self._limits.meeting)
            self._vmm.resume()
            self._greet(attempt, self._limits.trial, back.reason if back else _STARTS)
            self._prepared = True  # before it was saved
            self._introduce(attempt)
            self._up(attempt, Introduced)
        except Superseded:
            return
        except Exception as error:  # the VMM's refusals are many
            if isinstance(error, ChannelError):
                error = self.explain(error)
            self._post(StartFailed(attempt, time.monotonic(), self._not_back(error)))

    def _come_up(self, attempt: int) -> None:
        if self._state.resets and self._is_late():
            limit = self._context.start_timeout
            error = self._error(f"did not come up in {limit:g} s, as it reboots again and again")
            self._post(StartFailed(attempt, time.monotonic(), error))
            return
        self._give_up_template_after_reset()
        try:
            self._greet(attempt, self._time_left(), _STARTS)
            if self._template is not None:
                self._be_saved(attempt, self._template)
            self._introduce(attempt)
            self._post(Introduced(attempt, time.monotonic()))
            self._await_unit(self._context.ready_unit)
            self._prepare()
            self._up(attempt, CameUp)
        except Superseded:
            return
        except Exception as error:
            if attempt == self._state.attempt:
                self._post(StartFailed(attempt, time.monotonic(), self._not_up(error)))

    def _up(self, attempt: int, event: type[Introduced | CameUp]) -> None:
        """Tell that it has come up; one that has done so ahead stands by, paused."""
        if self._ahead is None:
            self._post(event(attempt, time.monotonic()))
            return
        if self._state.ahead:
            assert self._vmm is not None, "it was started"
            assert self._channel is not None, "an agent has answered"
            # Under emulation the first command costs a tenth of a second, which is not the test's.
            self._channel.run(_REHEARSAL)
            if self._vmm.channel == "serial":  # after a pause, Firecracker's vsock takes no calls
                self._vmm.pause()
        self._post(CameUpAhead(attempt))

    def _join(self, attempt: int) -> None:
        """Let one that has come up ahead go on, on its networks; it has seen no time pass."""
        boots = self._state.boots
        try:
            assert self._ahead is not None, "it has come up ahead"
            assert self._vmm is not None, "it was started"
            self._ahead.set_cables(True)
            self._vmm.resume()
            if self._context.identity is not None:
                assert self._channel is not None, "an agent has answered"
                self._channel.identity(_later(self._context.identity()))
            self._ahead = None
        except Exception as error:
            if attempt == self._state.attempt:
                failure = self._not_up(error) if boots else self._not_back(error)
                self._post(StartFailed(attempt, time.monotonic(), failure))
        else:
            self._post((CameUp if boots else Introduced)(attempt, time.monotonic()))

    def _greet(self, attempt: int, timeout: float, reason: str) -> None:
        """Reach the agent and greet it, on the channel that there was before, if there was one.

        What was under way on that fails with ``reason``.

        Raises:
            Superseded: The attempt is over.
            ChannelError: The agent was not reached, or cannot be talked to.
        """
        assert self._vmm is not None, "it was started"
        try:
            self._vmm.dial(
                lambda sock, limit: self._greet_on(sock, limit, attempt, reason),
                timeout,
                lambda: f"kernel panic: {self._state.panic}" if self._state.panic else "",
            )
        except DialError as error:
            raise ChannelError(self._name, str(error), attempts=error.attempts) from None

    def _greet_saved(self, vmm: Vmm, attempt: int, reason: str) -> None:
        """Greet it anew where the connection did not outlive that it was saved, see `_greet`."""
        if vmm.channel == "vsock":
            self._greet(attempt, self._limits.trial, reason)

    def _greet_on(self, sock: socket.socket, limit: float, attempt: int, reason: str) -> None:
        assert self._vmm is not None, "it was started"
        serial = self._vmm.channel == "serial"
        # Under the lock of `_interrupt`: that comes either before, and the attempt is over, or
        # after, and ends the session that is begun here.
        with self._channel_lock:
            if attempt != self._state.attempt:
                if not serial:
                    sock.close()
                raise Superseded
            if self._channel is None:
                # A clone's agent may have been saved in the middle of a frame.
                padding = serial and self._state.kind is not StartKind.BOOT
                self._channel = self._context.make_channel(self._name, sock, padding)
            else:
                self._channel.reconnect(sock, reason, padding=serial)
            channel = self._channel
            self._greeted_in = attempt
        channel.connect(limit)

    def _be_saved(self, attempt: int, template: Template) -> None:
        """Let what boots be saved, when it is ready and nobody yet."""
        self._post(AgentAnswered(attempt))
        self._await_unit(template.ready_unit)
        channel, vmm = self._channel, self._vmm
        assert channel is not None, "an agent has answered"
        assert vmm is not None, "it was started"

        self._was_saved = True
        try:
            template.save(
                channel, vmm, lambda: self._greet_saved(vmm, attempt, "the machine was saved")
            )
        except CommandFailed as error:
            error.evidence |= self.console_evidence()
            raise
        self._plug_in(template)
        self._template = None
        self._prepared = True

    def _give_up_template_after_reset(self) -> None:
        if self._state.kind is not StartKind.TEMPLATE:
            self._give_up_template()

    def _give_up_template(self) -> None:
        template, self._template = self._template, None
        if template is not None:
            template.give_up(self._why_not_saved())
            self._plug_in(template)

    def _plug_in(self, template: Template) -> None:
        """Put what was apart on its networks; one that comes up ahead is not yet."""
        if self._ahead is None:
            template.plug_in()

    def _why_not_saved(self) -> BaseException | None:
        outcome = self._state.outcome
        if outcome is not None and outcome.error is not None:
            return outcome.error
        goes_on = self._state.phase in (Phase.STARTING, Phase.COMING_UP)
        return None if goes_on else Cancelled(self._left)

    def _introduce(self, attempt: int) -> None:
        """Tell the agent who it is."""
        self._post(AgentAnswered(attempt))
        if self._context.identity is not None:
            assert self._channel is not None, "an agent has answered"
            self._channel.identity(self._identity(self._context.identity()))
        self._was_saved = False  # what boots again is no copy of anything

    def _identity(self, identity: Identity) -> Identity:
        match self._state.kind:
            case StartKind.RETURN:
                return _later(identity)
            case StartKind.CLONE:
                return replace(identity, copy=True)
        return replace(identity, copy=True) if self._was_saved else identity

    def _await_unit(self, unit: str) -> None:
        channel = self._channel
        assert channel is not None, "an agent has answered"
        if unit and channel.welcome.init == "systemd":
            channel.start_wait(WaitFor(WaitKind.UNIT, unit, self._time_left())).result()

    def _prepare(self) -> None:
        """Do what is to be done once in a guest that has booted, however often it is reset."""
        prepare, channel = self._context.prepare, self._channel
        assert channel is not None, "an agent has answered"
        if prepare is None or self._prepared:
            return
        try:
            prepare(channel)
        except CommandFailed as error:
            error.evidence |= self.console_evidence()
            raise
        self._prepared = True

    def _report_spoilt(self, error: AttestError, seconds: float | None) -> None:
        reason = reason_of(error)
        if seconds is not None:
            reason = f"it died {seconds:.1f} s after its first answer: {reason}"
        self._source.report_spoilt(reason)

    def _discard(self) -> None:
        self._prepared = False
        if self._vmm is not None:
            self._end_vmm()
        if self._back is not None:
            error = self._state.outcome.error if self._state.outcome else None
            self._back.meeting.call_off(self._name, reason_of(error) if error else self._left)
        with self._channel_lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._vmm = self._console = None

    def _end_vmm(self) -> None:
        vmm, console = self._vmm, self._console
        if vmm is not None:
            vmm.kill()
        if console is not None:
            console.join()

    def _interrupt(self, reason: str, before: int) -> None:
        with self._channel_lock:
            # The worker may have begun the next attempt's session already.
            if self._channel is not None and self._greeted_in < before:
                self._channel.interrupt(reason)

    def _take_turn(self) -> None:
        if not self._has_turn:
            _TURNS.acquire()
            self._has_turn = True

    def _give_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _TURNS.release()

    # What is heard from the VMM and the console

    def _vmm_exited(self, process: int, exit: VmmExit) -> None:
        """Called in the VMM's watcher."""
        with self._lock:
            if process != self._state.process:
                return
            if self._state.phase is Phase.STARTING:
                self._early_exit = exit  # the worker still starts it, and may fail for that
                return
            console = self._console
        if console is None:  # it could not be started, which the worker tells
            return
        if self._back is not None:  # the worker may wait there for the others, and they for it
            self._back.meeting.call_off(self._name, f"the VMM ended ({exit})")
        console.join()
        error = diagnosis.exit_error(self._name, exit, self._state, console)
        resets = self.allow_reboot and self._context.reset_ends_vmm
        self._post(VmmExited(process, time.monotonic(), exit, error, resets))

    def _hear_early_exit(self, process: int) -> None:
        """Called in the worker, when it has started the VMM."""
        with self._lock:
            exit, self._early_exit = self._early_exit, None
        if exit is not None:
            self._vmm_exited(process, exit)

    def _vmm_told(self, process: int, event: str, data: dict[str, Any]) -> None:
        """Called in a thread of the VMM's."""
        if event == "RESET" and data.get("guest"):
            self._post(GuestReset(process, time.monotonic()))
        elif event == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            self._post(StoodStill(process, diagnosis.disk_error(self._name, data)))

    def _console_line(self, process: int, line: str) -> None:
        """Called in the console's reader."""
        if _POWER_OFF in line:
            self._post(PowerOffBegun(process))
        stage = Stage.INIT if line == "attest-stage: init" else Stage.KERNEL
        if not self._state.stage.reached(stage):
            self._post(ConsoleSpoke(process, stage))
        self._events.emit(Kind.CONSOLE, line, machine=self._name)

    def _alarm(self, process: int, alarm: Alarm, line: str) -> None:
        """Called in the console's reader."""
        self._events.emit(Kind.ALARM, f"{alarm}: {line}", machine=self._name)
        if alarm is Alarm.PANIC:
            # The lines that follow say where. The VMM ends by itself (panic=-1).
            self._post(Panicked(process, line))

    def _console_trouble(self, trouble: str) -> None:
        """Called in the console's reader."""
        self._events.emit(Kind.WARNING, trouble, machine=self._name)

    # Waiting, and what errors say

    def _launched(self) -> tuple[Vmm, Console]:
        """Its VMM and its console, as soon as they are those that it keeps."""
        with self._lock:
            self._changed.wait_for(lambda: self._state.launched)
            if self._vmm is not None and self._console is not None:
                return self._vmm, self._console
            raise self._why_not_there()

    def _undisturbed(self) -> tuple[Vmm, Console]:
        """The same when what is done with them is not saved, for clones of it to have."""
        with self._lock:
            self._changed.wait_for(lambda: self._state.launched and not self._state.apart)
        return self._launched()

    def _why_not_there(self) -> AttestError:
        outcome = self._state.outcome
        if outcome is not None and outcome.error is not None:
            return outcome.error.fresh_copy()
        return MachineError(self._name, self._left)

    def _await_end_heard(self) -> None:
        """Wait for what an end that has come already means, lest it pass for one that is wanted."""
        with self._lock:
            self._changed.wait_for(self._end_is_heard)

    def _end_is_heard(self) -> bool:
        running = self._state.launched and self._state.phase is not Phase.OFF
        vmm = self._vmm
        return not running or vmm is None or vmm.exit is None

    def _time_left(self) -> float:
        end = self._state.since + self._context.start_timeout
        return max(end - time.monotonic(), 0.001)

    def _is_late(self) -> bool:
        return self._time_left() <= 0.001

    def _error(self, message: str, attempts: list[str] | None = None) -> MachineError:
        if self._console is None:
            return MachineError(self._name, message, attempts=attempts)
        return diagnosis.error_at(self._name, message, self._state, self._console, attempts)

    def _not_up(self, error: Exception) -> AttestError:
        assert self._console is not None, "its VMM was started"
        if isinstance(error, CommandFailed | UsageError):  # of what was to be done in it
            return error
        if isinstance(error, MachineError) and (told := self.explain(error)) is not error:
            return told
        late = self._context.start_timeout if self._is_late() else None
        return diagnosis.not_up(self._name, error, self._state, self._console, late=late)

    def _not_started(self, error: Exception) -> AttestError:
        if isinstance(error, AttestError):
            return error
        reason = reason_of(error)
        return MachineError(self._name, f"its VMM could not be started: {reason}")

    def _not_back(self, error: Exception) -> MachineError:
        reason = reason_of(error)
        if isinstance(error, MeetingFailed):
            return MachineError(self._name, f"did not come back, as not all did: {reason}")
        failure = MachineError(self._name, f"did not come back from its snapshot: {reason}")
        failure.__cause__ = error
        return failure


def _later(identity: Identity) -> Identity:
    """What of an identity changes with time."""
    return Identity(hosts=identity.hosts, seed=identity.seed, clock_ns=identity.clock_ns)


_AT_ONCE: Final = (Interrupt, KillVmm, TellStage, TellReset)
"""Effects that the poster of an event carries out itself, as they cannot wait for the worker."""
