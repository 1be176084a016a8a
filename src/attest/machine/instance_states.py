"""The life of an instance as data: its states, what happens to it, and what is to be done then.

An instance is one running guest behind a machine, from its start to its end. `advance` is all that
is decided about it: it takes a state and what has happened, and gives the next state and the
effects that `attest.machine.instance.Instance` carries out. Nothing here does I/O, waits, or reads
a clock, so every thread may call it, and tests need no guest.

The way of an instance::

    PENDING ─ its source is found ─▶ STARTING ─ its VMM runs ─▶ COMING_UP ─▶ READY     a boot
                                        └──────────────────────▶ ON_TRIAL ─▶ PROBATION  a clone
                                                                     └─────▶ READY      a return
    any of these ─ it is ended ─▶ STOPPING ─▶ OFF

A clone counts only when it has answered: some snapshots load without a word and never do (see
`attest.snapshot.shape`). Where one does not, the machine boots. Some clones answer and die a moment
later, their kernel being unfit for it: so each is on probation for a while, and where nobody has
used it yet, it boots, too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from attest.errors import AttestError, MachineError
from attest.vmm.base import Saved, VmmExit

__all__ = [
    "Event",
    "Effect",
    "Limits",
    "Outcome",
    "Phase",
    "Stage",
    "StartKind",
    "State",
    "advance",
]


class Stage(StrEnum):
    """How far a machine has come, as its users see it."""

    OFF = "off"
    VMM = "VMM started"
    KERNEL = "kernel"
    INIT = "init"
    AGENT = "agent"
    READY = "ready"

    def reached(self, other: Stage) -> bool:
        """Whether this stage is ``other``, or a later one."""
        return _STAGES.index(self) >= _STAGES.index(other)


_STAGES: Final = tuple(Stage)


class Phase(StrEnum):
    """Where an instance is between its start and its end."""

    PENDING = "pending"
    """What it starts from is being looked for, which can take as long as a boot."""
    STARTING = "starting"
    """Its VMM is being started."""
    ON_TRIAL = "on trial"
    """Its VMM has loaded a snapshot, and the agent in it has not answered yet."""
    PROBATION = "probation"
    """A clone that has answered, and that nobody has used."""
    COMING_UP = "coming up"
    """Its guest boots; its agent has not answered yet, or its unit is not active."""
    READY = "ready"
    FAILED = "failed"
    """It did not come up. Its VMM runs on, for whoever wants to look at the console."""
    STOPPING = "stopping"
    """Its VMM is being ended."""
    OFF = "off"


class StartKind(StrEnum):
    """How an instance begins."""

    BOOT = "boot"
    CLONE = "clone"
    """From a snapshot of a machine of its shape, which is then given another identity."""
    RETURN = "return"
    """From an earlier moment of its own machine; it cannot boot instead."""


class Limits(Struct, frozen=True):
    """How long each step of an instance may take, in seconds.

    Attributes:
        trial: In which a clone must answer; it takes a tenth of a second, and on a busy host with
            many a few.
        probation: After a clone's first answer, in which its death is blamed on the snapshot.
        meeting: In which all must be loaded that come back together; whole memories may be read.
        reaped: The sockets of a VMM that ends close a moment before its process is gone.
    """

    trial: float = 30.0
    probation: float = 2.0
    meeting: float = 300.0
    reaped: float = 1.0


DEFAULT_LIMITS: Final = Limits()


class Outcome(Struct, frozen=True):
    """How an instance ended, or why it did not come up.

    Attributes:
        error: What to tell whoever needs the machine; None when its end was wanted, or it powered
            off by itself.
        died: Nobody had asked for the end of its VMM: a fresh machine in its place would hide that.
    """

    error: AttestError | None = None
    died: bool = False


class State(Struct, frozen=True):
    """An instance at one moment.

    Attributes:
        phase: Where it is.
        kind: What it began with; a guest that reboots is one that boots.
        attempt: Counts what has begun in it: the start of a VMM, or of a guest within one.
        process: The attempt in which its present VMM was started; 0 before the first.
        stage: How far it has come in this attempt.
        since: When this attempt began, in seconds of the monotonic clock.
        answered: When its agent first answered as a clone's, in the same seconds.
        introduced: Its agent has been told who it is.
        used: Somebody has had its channel.
        ending: Its end is wanted: it is no failure.
        killed: It is to end as soon as its VMM has been started.
        may_boot: Where the snapshot is of no use, it boots.
        panic: The line in which its kernel has reported a panic; empty: it has not.
        resets: How often its guest has begun anew.
        outcome: How it ended, or why it did not come up; None while neither is so.
    """

    phase: Phase = Phase.PENDING
    kind: StartKind = StartKind.BOOT
    attempt: int = 1
    process: int = 0
    stage: Stage = Stage.OFF
    since: float = 0.0
    answered: float = 0.0
    introduced: bool = False
    used: bool = False
    ending: bool = False
    killed: bool = False
    may_boot: bool = False
    panic: str = ""
    resets: int = 0
    outcome: Outcome | None = None

    @property
    def up(self) -> bool:
        """Whether its channel can be used."""
        return self.phase in (Phase.PROBATION, Phase.READY)

    @property
    def settled(self) -> bool:
        """Whether it is ready, or never will be: waiting for that is over."""
        return self.up or self.phase in (Phase.FAILED, Phase.OFF)

    @property
    def launched(self) -> bool:
        """Whether its VMM is one that it keeps, or there will be none."""
        return self.phase not in (Phase.PENDING, Phase.STARTING, Phase.ON_TRIAL)


# What happens to it


class Event(Struct, frozen=True):
    """The base of all events: something has happened, and may change the state."""


class WorkerEvent(Event, frozen=True):
    """What the worker tells of an effect; of an attempt that is over it is of no interest.

    Attributes:
        attempt: In which the effect was carried out.
    """

    attempt: int


class SourceFound(WorkerEvent, frozen=True):
    """It has been found out what it starts from.

    Attributes:
        at: When.
        saved: The snapshot; None to boot.
        may_boot: It may boot instead.
    """

    at: float
    saved: Saved | None
    may_boot: bool


class VmmStarted(WorkerEvent, frozen=True):
    """Its VMM has been started: it runs, or has loaded a snapshot and stands still."""


class AgentAnswered(WorkerEvent, frozen=True):
    """The agent in the guest has answered the greeting."""


class Introduced(WorkerEvent, frozen=True):
    """The agent has been told who the machine is.

    Attributes:
        at: When.
    """

    at: float


class CameUp(WorkerEvent, frozen=True):
    """The unit that makes it ready is active.

    Attributes:
        at: When.
    """

    at: float


class StartFailed(WorkerEvent, frozen=True):
    """What was being done for the start did not work, or took too long.

    Attributes:
        at: When.
        error: Why.
    """

    at: float
    error: AttestError


class VmmEvent(Event, frozen=True):
    """What is heard from the VMM or its guest; from an earlier one it is of no interest.

    Attributes:
        process: The attempt in which that VMM was started.
    """

    process: int


class VmmExited(VmmEvent, frozen=True):
    """The VMM has ended, and the last of its console has been read.

    Attributes:
        at: When.
        exit: How.
        error: What that means where it is a failure.
    """

    at: float
    exit: VmmExit
    error: MachineError


class GuestReset(VmmEvent, frozen=True):
    """The guest has been reset, and boots; its VMM goes on.

    Attributes:
        at: When.
    """

    at: float


class ConsoleSpoke(VmmEvent, frozen=True):
    """The console has shown how far the guest is.

    Attributes:
        stage: The stage that it shows.
    """

    stage: Stage


class Panicked(VmmEvent, frozen=True):
    """The guest's kernel has panicked; the VMM ends by itself after that.

    Attributes:
        line: What the kernel says.
    """

    line: str


class BeginAnew(Event, frozen=True):
    """The test says that the guest begins anew, without a reset.

    Attributes:
        at: When.
        reason: What whoever uses it is told.
    """

    at: float
    reason: str


class Used(Event, frozen=True):
    """Its channel has been handed to somebody: from now on its death is the test's concern."""


class EndWanted(Event, frozen=True):
    """Somebody wants it to end: from now on its end is no failure."""


class EndRetracted(Event, frozen=True):
    """Its end was wanted, and did not come: from now on it is a failure again."""


class EndAccepted(Event, frozen=True):
    """Somebody accepts its end, however that came, as one that was wanted."""


class KillWanted(Event, frozen=True):
    """Somebody wants its VMM to be killed at once.

    Attributes:
        reason: What whoever uses it is told.
    """

    reason: str


# What is to be done then


class Effect(Struct, frozen=True):
    """The base of all effects: something is to be done because of an event."""


class StartVmm(Effect, frozen=True):
    """Start its VMM.

    Attributes:
        attempt: For which.
        saved: What it continues; None to boot.
    """

    attempt: int
    saved: Saved | None


class TryClone(Effect, frozen=True):
    """Let it run, greet its agent, and tell that who the machine is.

    Attributes:
        attempt: For which.
    """

    attempt: int


class ComeUp(Effect, frozen=True):
    """Greet its agent, tell that who the machine is, and wait for the unit that makes it ready.

    Attributes:
        attempt: For which.
    """

    attempt: int


class Interrupt(Effect, frozen=True):
    """End what is under way on its channel.

    Attributes:
        reason: What whoever waits there is told.
    """

    reason: str


class KillVmm(Effect, frozen=True):
    """End its VMM; its channel is left to whoever has it."""


class Discard(Effect, frozen=True):
    """End its VMM and its channel, of which nobody has heard yet."""


class ReportSpoilt(Effect, frozen=True):
    """Tell its source that the snapshot is of no use.

    Attributes:
        error: Why.
        seconds: How long after the first answer it died; None when it never answered.
    """

    error: AttestError
    seconds: float | None = None


class TellStage(Effect, frozen=True):
    """Report how far it has come.

    Attributes:
        stage: The stage.
        seconds: How long that took, of the last one.
    """

    stage: Stage
    seconds: float | None = None


class TellReset(Effect, frozen=True):
    """Report that the guest reboots."""


class TellExit(Effect, frozen=True):
    """Report that its VMM has ended.

    Attributes:
        exit: How.
    """

    exit: VmmExit


class TellFatal(Effect, frozen=True):
    """Report that the run cannot go on.

    Attributes:
        error: Why.
        seconds: How long after a clone's first answer it died, where the snapshot may be to blame.
    """

    error: AttestError
    seconds: float | None = None


Next = tuple[State, tuple[Effect, ...]]

_RUNNING: Final = frozenset(
    {Phase.ON_TRIAL, Phase.PROBATION, Phase.COMING_UP, Phase.READY, Phase.FAILED}
)
"""The phases in which a VMM runs."""


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
        case StartFailed():
            return _start_failed(state, event)
        case VmmExited():
            return _vmm_exited(state, event, limits)
        case GuestReset(at=at):
            return _begin_anew(state, at, "the machine reboots", TellReset())
        case BeginAnew(at=at, reason=reason):
            return _begin_anew(state, at, reason)
        case ConsoleSpoke(stage=stage):
            return _reach(state, stage)
        case Panicked(line=line):
            return replace(state, panic=line), ()
        case _:
            return _user_said(state, event)


def _is_stale(state: State, event: Event) -> bool:
    if isinstance(event, WorkerEvent):
        return event.attempt != state.attempt
    return isinstance(event, VmmEvent) and event.process != state.process


def _user_said(state: State, event: Event) -> Next:
    match event:
        case Used() if state.up:
            return replace(state, used=True, phase=Phase.READY), ()
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
    stage = max(state.stage, Stage.VMM, key=_STAGES.index)  # the console may have been faster
    told = [TellStage(each) for each in _STAGES[1:] if stage.reached(each)]
    boots = state.kind is StartKind.BOOT
    phase = Phase.COMING_UP if boots else Phase.ON_TRIAL
    effect = ComeUp(state.attempt) if boots else TryClone(state.attempt)
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
    return replace(state, phase=Phase.READY, stage=Stage.READY), (TellStage(Stage.READY, seconds),)


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
        introduced=False, used=False,
    )  # fmt: skip
    return _start(anew, at, None, *before)


def _vmm_exited(state: State, event: VmmExited, limits: Limits) -> Next:
    told = TellExit(event.exit)
    failed = bool(state.panic) or event.exit.status != 0
    match state.phase:
        case Phase.STARTING | Phase.ON_TRIAL:
            return _lose_start(state, event.at, event.error)
        case Phase.FAILED:
            assert state.outcome is not None, "it says why the machine did not come up"
            return _off(state, replace(state.outcome, died=failed), told)
        case Phase.COMING_UP if not state.ending:
            outcome = Outcome(event.error, died=failed)
            return _off(state, outcome, told, TellFatal(event.error))
        case Phase.PROBATION | Phase.READY if failed and not state.ending:
            return _died(state, event, limits)
        case Phase.PENDING | Phase.OFF:
            return state, ()
    return _off(state, Outcome(), told)


def _died(state: State, event: VmmExited, limits: Limits) -> Next:
    told = TellExit(event.exit)
    seconds = event.at - state.answered
    blamed = state.kind is StartKind.CLONE and seconds < limits.probation
    if not blamed:
        return _off(state, Outcome(event.error, died=True), told, TellFatal(event.error))
    spoilt = ReportSpoilt(event.error, seconds)
    if state.phase is Phase.PROBATION and state.may_boot:
        return _boot_instead(state, event.at, told, Discard(), spoilt)
    fatal = TellFatal(event.error, seconds)
    return _off(state, Outcome(event.error, died=True), told, spoilt, fatal)


def _begin_anew(state: State, at: float, reason: str, *before: Effect) -> Next:
    if state.phase not in _RUNNING or state.ending:
        return state, ()
    anew = replace(
        state, phase=Phase.COMING_UP, kind=StartKind.BOOT, attempt=state.attempt + 1,
        stage=Stage.VMM, since=at, introduced=False, panic="", resets=state.resets + 1,
        outcome=None,
    )  # fmt: skip
    return anew, (*before, Interrupt(reason), ComeUp(anew.attempt))


def _kill_wanted(state: State, reason: str) -> Next:
    match state.phase:
        case Phase.PENDING:
            return _off(state, Outcome())
        case Phase.STARTING:  # nobody has its VMM yet
            return replace(state, killed=True), ()
        case Phase.STOPPING | Phase.OFF:
            return state, ()
    return replace(state, phase=Phase.STOPPING), (Interrupt(reason), KillVmm())


def _off(state: State, outcome: Outcome, *effects: Effect) -> Next:
    return replace(state, phase=Phase.OFF, outcome=outcome), effects


def _fatal(state: State, error: AttestError) -> tuple[Effect, ...]:
    return () if state.ending else (TellFatal(error),)
