"""What becomes of an instance when something happens to it, and what is to be done then.

An instance is one running guest behind a machine, from its start to its end. `advance` is all that
is decided about it: it takes a state and what has happened, and gives the next state and the
effects that `attest.machine.instance.Instance` carries out. Nothing here does I/O, waits, or reads
a clock, so every thread may call it, and tests need no guest.

The way of an instance::

    PENDING ─ its source is found ─▶ STARTING ─ its VMM runs ─▶ COMING_UP ─▶ READY     a boot
                                        └──────────────────────▶ ON_TRIAL ─▶ PROBATION  a clone
                                                                     └─────▶ READY      a return
    any of these ─ it is ended ─▶ STOPPING ─▶ OFF

One that comes up ahead of its machine's start goes from ON_TRIAL or COMING_UP to STANDBY, and back
there when the machine is started.

A clone counts only when it has answered: some snapshots load without a word and never do (see
`attest.snapshot.shape`). Where one does not, the machine boots. Some clones answer and die a moment
later, their kernel being unfit for it: so each is on probation for a while, and where nobody has
used it yet, it boots, too. A snapshot whose clone has served the test is not blamed for its end.
"""

from __future__ import annotations

import signal
from typing import Final

from msgspec.structs import replace

from attest.errors import AttestError, reason_of
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
    VmmEvent,
    VmmExited,
    VmmStarted,
    WorkerEvent,
)
from attest.machine.instance_states import STAGES, Limits, Outcome, Phase, Stage, StartKind, State
from attest.vmm.base import Saved

__all__ = ["advance"]

Next = tuple[State, tuple[Effect, ...]]

_RUNNING: Final = frozenset(
    {Phase.ON_TRIAL, Phase.PROBATION, Phase.COMING_UP, Phase.READY, Phase.FAILED}
)
"""The phases in which a VMM runs."""

_BOOTED: Final = frozenset({Phase.PROBATION, Phase.COMING_UP, Phase.READY, Phase.FAILED})
"""Those of them in which its guest may reboot by itself."""

_ON_REQUEST: Final = "sysrq triggered crash"
"""What a kernel says that panics because somebody in the guest wants it to."""

_REBOOTS: Final = "the machine reboots"


def advance(state: State, event: Event, limits: Limits) -> Next:
    """The next state, and what is to be done, in this order.

    Args:
        state: The instance as it is.
        event: What has happened. What is told of an attempt or a VMM that is over changes nothing.
        limits: How long steps may take.
    """
    if _is_stale(state, event):
        return state, ()
    match event:
        case SourceFound():
            return _source_found(state, event)
        case VmmStarted():
            return _vmm_started(state, event)
        case AgentAnswered():
            return _reach(state, Stage.AGENT)
        case Introduced():
            return _introduced(state, event)
        case CameUp():
            return _ready(state, event.at) if state.phase is Phase.COMING_UP else (state, ())
        case CameUpAhead():
            return _came_up_ahead(state)
        case StartFailed():
            return _start_failed(state, event)
        case VmmExited():
            return _vmm_exited(state, event, limits)
        case GuestReset() if state.phase is Phase.STANDBY:  # in the moment before it was paused
            return replace(state, phase=Phase.STOPPING), (KillVmm(),)
        case GuestReset(at=at):
            return _begin_anew(replace(state, rebooting=False), at, _REBOOTS, TellReset())
        case BeginAnew(at=at, reason=reason):
            return _begin_anew(state, at, reason)
        case ConsoleSpoke(stage=stage):
            return _reach(state, stage)
        case Panicked(line=line):
            return replace(state, panic=line), ()
        case StoodStill(error=error):
            return _stood_still(state, error)
        case PowerOffBegun():
            return replace(state, powering_off=True), ()
        case _:
            return _user_said(state, event)


def _is_stale(state: State, event: Event) -> bool:
    if isinstance(event, WorkerEvent):
        return event.attempt != state.attempt
    return isinstance(event, VmmEvent) and event.process != state.process


def _user_said(state: State, event: Event) -> Next:
    match event:
        case Called(at=at):
            return _called(state, at)
        case Used() if state.up:
            return replace(state, used=True, phase=Phase.READY), ()
        case Served():
            return replace(state, served=True), ()
        case RebootWanted(wanted=wanted):
            return replace(state, rebooting=wanted), ()
        case EndWanted():
            return replace(state, ending=True), ()
        case EndRetracted() if state.phase not in (Phase.STOPPING, Phase.OFF):
            return replace(state, ending=False), ()
        case EndAccepted() if state.phase is Phase.OFF:
            return replace(state, outcome=Outcome()), ()
        case KillWanted(reason=reason):
            return _kill_wanted(replace(state, ending=True), reason)
    return state, ()


def _source_found(state: State, event: SourceFound) -> Next:
    if state.phase is not Phase.PENDING:
        return state, ()
    kind = StartKind.BOOT if event.saved is None else StartKind.CLONE
    if event.is_template:
        kind = StartKind.TEMPLATE
    if state.kind is StartKind.RETURN:
        kind = StartKind.RETURN
    state = replace(state, kind=kind, may_boot=event.may_boot)
    return _start(state, event.at, event.saved)


def _start(state: State, at: float, saved: Saved | None, *before: Effect) -> Next:
    state = replace(state, phase=Phase.STARTING, process=state.attempt, since=at)
    return state, (*before, StartVmm(state.attempt, saved))


def _vmm_started(state: State, event: VmmStarted) -> Next:
    if state.phase is not Phase.STARTING:
        return state, ()
    if state.killed:
        return replace(state, phase=Phase.STOPPING), (KillVmm(),)
    stage = max(state.stage, Stage.VMM, key=STAGES.index)  # the console may have been faster
    told = [TellStage(each) for each in STAGES[1:] if stage.reached(each)]
    phase = Phase.COMING_UP if state.boots else Phase.ON_TRIAL
    effect = ComeUp(state.attempt) if state.boots else TryClone(state.attempt)
    return replace(state, phase=phase, stage=stage), (*told, effect)


def _reach(state: State, stage: Stage) -> Next:
    """Note a stage on the way; there is none before the VMM is started, nor after the end."""
    on_the_way = state.phase in (Phase.STARTING, Phase.ON_TRIAL, Phase.COMING_UP, Phase.FAILED)
    if not on_the_way or state.stage.reached(stage):
        return state, ()
    told = () if state.phase is Phase.STARTING else (TellStage(stage),)  # see `_vmm_started`
    return replace(state, stage=stage), told


def _introduced(state: State, event: Introduced) -> Next:
    state = replace(state, introduced=True)
    if state.phase is not Phase.ON_TRIAL:
        return state, ()
    if state.kind is StartKind.RETURN:
        return _ready(state, event.at)
    state, effects = _ready(state, event.at)
    return replace(state, phase=Phase.PROBATION, answered=event.at), effects


def _ready(state: State, at: float) -> Next:
    seconds = round(at - state.since, 3)
    ready = replace(state, phase=Phase.READY, stage=Stage.READY, joins=False)
    return ready, (TellStage(Stage.READY, seconds),)


def _came_up_ahead(state: State) -> Next:
    if state.phase not in (Phase.ON_TRIAL, Phase.COMING_UP):
        return state, ()
    if state.ahead:
        return replace(state, phase=Phase.STANDBY), ()
    return state, (Join(state.attempt),)


def _called(state: State, at: float) -> Next:
    state = replace(state, ahead=False)
    if state.phase is not Phase.STANDBY:
        return state, ()
    phase = Phase.COMING_UP if state.boots else Phase.ON_TRIAL
    return replace(state, phase=phase, since=at), (Join(state.attempt),)


def _start_failed(state: State, event: StartFailed) -> Next:
    match state.phase:
        case Phase.COMING_UP:
            failed = replace(state, phase=Phase.FAILED, outcome=Outcome(event.error))
            return failed, _fatal(state, event.error)
        case Phase.PENDING | Phase.STARTING | Phase.ON_TRIAL:
            return _lose_start(state, event.at, event.error)
    return state, ()


def _lose_start(state: State, at: float, error: AttestError) -> Next:
    """It never was ready: it boots where that is another way, and else is off."""
    if state.kind is StartKind.CLONE and state.may_boot and not state.ending:
        return _boot_instead(state, at, Discard(), ReportSpoilt(error))
    outcome = Outcome() if state.killed else Outcome(error)
    return _off(replace(state, stage=Stage.OFF), outcome, Discard(), *_fatal(state, error))


def _boot_instead(state: State, at: float, *before: Effect) -> Next:
    anew = replace(
        state, kind=StartKind.BOOT, attempt=state.attempt + 1, stage=Stage.OFF, panic="",
        introduced=False, used=False, served=False,
    )  # fmt: skip
    return _start(anew, at, None, *before)


def _vmm_exited(state: State, event: VmmExited, limits: Limits) -> Next:
    told = TellExit(event.exit)
    failed = bool(state.panic) or event.exit.status != 0
    reboots = state.rebooting or (event.resets and not state.powering_off)
    if reboots and not failed and not state.ending and state.phase in _BOOTED:
        return _boot_again(state, event.at, told)
    match state.phase:
        case Phase.STARTING | Phase.ON_TRIAL:
            return _lose_start(state, event.at, event.error)
        case Phase.FAILED:
            assert state.outcome is not None, "it says why the machine did not come up"
            return _off(state, replace(state.outcome, died=failed), told)
        case Phase.COMING_UP if not state.ending:
            outcome = Outcome(event.error, died=failed)
            return _off(state, outcome, told, *_fatal(state, event.error))
        case Phase.PROBATION | Phase.READY if failed and not state.ending:
            return _died(state, event, limits)
        case Phase.PENDING | Phase.OFF:
            return state, ()
    return _off(state, Outcome(), told)


def _boot_again(state: State, at: float, *before: Effect) -> Next:
    """The guest has been reset, and its VMM ended with that: a new one goes on with its disks."""
    anew = replace(
        state, kind=StartKind.BOOT, attempt=state.attempt + 1, stage=Stage.OFF, introduced=False,
        rebooting=False, powering_off=False, resets=state.resets + 1, outcome=None,
    )  # fmt: skip
    told = (*before, TellReset(), Interrupt(_REBOOTS, anew.attempt))
    return _start(anew, _since(state, at), None, *told)


def _since(state: State, at: float) -> float:
    """When the start began that a reset goes on with: a guest has one limit, however it boots."""
    return state.since if state.phase is Phase.COMING_UP else at


def _stood_still(state: State, error: AttestError) -> Next:
    if state.phase is Phase.OFF:
        return state, ()
    told = (*_fatal(state, error), Interrupt(reason_of(error), state.attempt + 1))
    if state.phase is Phase.COMING_UP:
        return replace(state, phase=Phase.FAILED, outcome=Outcome(error)), told
    return state, told


def _died(state: State, event: VmmExited, limits: Limits) -> Next:
    told = TellExit(event.exit)
    seconds = event.at - state.answered
    is_young = state.kind is StartKind.CLONE and seconds < limits.probation
    blamed = is_young and not _by_the_test(state, event)
    if not blamed:
        return _off(state, Outcome(event.error, died=True), told, TellFatal(event.error))
    spoilt = ReportSpoilt(event.error, seconds)
    if state.phase is Phase.PROBATION and state.may_boot:
        return _boot_instead(state, event.at, told, Discard(), spoilt)
    fatal = TellFatal(event.error, seconds)
    return _off(state, Outcome(event.error, died=True), told, spoilt, fatal)


def _by_the_test(state: State, event: VmmExited) -> bool:
    """Whether a death is rather what the test has done than what its snapshot was."""
    killed = -event.exit.status in (signal.SIGKILL, signal.SIGTERM)  # which no guest brings about
    return killed or state.served or (state.used and _ON_REQUEST in state.panic)


def _begin_anew(state: State, at: float, reason: str, *before: Effect) -> Next:
    if state.phase not in _RUNNING:
        return state, ()
    anew = replace(
        state, phase=Phase.COMING_UP, kind=StartKind.BOOT, attempt=state.attempt + 1,
        stage=Stage.VMM, since=_since(state, at), introduced=False, panic="",
        resets=state.resets + 1, outcome=None,
    )  # fmt: skip
    return anew, (*before, Interrupt(reason, anew.attempt), ComeUp(anew.attempt))


def _kill_wanted(state: State, reason: str) -> Next:
    match state.phase:
        case Phase.PENDING:
            return _off(state, Outcome())
        case Phase.STARTING:  # nobody has its VMM yet
            return replace(state, killed=True), ()
        case Phase.STOPPING | Phase.OFF:
            return state, ()
    return replace(state, phase=Phase.STOPPING), (Interrupt(reason, state.attempt + 1), KillVmm())


def _off(state: State, outcome: Outcome, *effects: Effect) -> Next:
    return replace(state, phase=Phase.OFF, outcome=outcome), effects


def _fatal(state: State, error: AttestError) -> tuple[Effect, ...]:
    return () if state.ending or state.ahead else (TellFatal(error),)
