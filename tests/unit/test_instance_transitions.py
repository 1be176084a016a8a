"""What is decided about an instance: the table, and what holds whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from attest.errors import MachineError
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
    VmmExited,
    VmmStarted,
)
from attest.machine.instance_states import DEFAULT_LIMITS, Outcome, Phase, Stage, StartKind, State
from attest.machine.instance_transitions import advance
from attest.vmm.base import Saved, VmmExit

SAVED = Saved(Path("memory"), Path("state"))
ERROR = MachineError("m", "did not work")
DEATH = MachineError("m", "the VMM ended")
BAD = VmmExit(1, False, "")
GOOD = VmmExit(0, True, "")

PENDING = State(attempt=1)
STARTING = State(phase=Phase.STARTING, process=1, since=10)
CLONE_STARTING = replace(STARTING, kind=StartKind.CLONE, may_boot=True)
TEMPLATE_STARTING = replace(STARTING, kind=StartKind.TEMPLATE, may_boot=True)
RETURN_STARTING = replace(STARTING, kind=StartKind.RETURN, may_boot=True)
COMING_UP = replace(STARTING, phase=Phase.COMING_UP, stage=Stage.VMM)
TEMPLATE = replace(COMING_UP, kind=StartKind.TEMPLATE)
FAILED = replace(COMING_UP, phase=Phase.FAILED, outcome=Outcome(ERROR))
ON_TRIAL = replace(CLONE_STARTING, phase=Phase.ON_TRIAL, stage=Stage.AGENT)
RETURNING = replace(RETURN_STARTING, phase=Phase.ON_TRIAL, stage=Stage.AGENT)
PROBATION = replace(
    ON_TRIAL, phase=Phase.PROBATION, stage=Stage.READY, answered=20, introduced=True
)
IN_USE = replace(PROBATION, phase=Phase.READY, used=True)
READY = replace(COMING_UP, phase=Phase.READY, stage=Stage.READY, introduced=True)
STOPPING = replace(READY, phase=Phase.STOPPING, ending=True)
STANDBY = replace(ON_TRIAL, phase=Phase.STANDBY, ahead=True)
DIED = replace(READY, phase=Phase.OFF, outcome=Outcome(DEATH, died=True))


def exited(exit: VmmExit, at: float = 100) -> VmmExited:
    return VmmExited(1, at, exit, DEATH)


BOOTS = (Discard(), ReportSpoilt(ERROR), StartVmm(2, None))
LOST = (Discard(), ReportSpoilt(DEATH), StartVmm(2, None))
STOPS = Interrupt("did not work", 2)
COMES_UP_AGAIN = (Interrupt("the machine reboots", 2), ComeUp(2))

# Where it is, what happens, where it is then, what is to be done.
TABLE: list[tuple[State, Event, Phase, tuple[Effect, ...]]] = [
    (PENDING, SourceFound(1, 5, None, True), Phase.STARTING, (StartVmm(1, None),)),
    (PENDING, SourceFound(1, 5, SAVED, True), Phase.STARTING, (StartVmm(1, SAVED),)),
    (PENDING, SourceFound(1, 5, None, True, True), Phase.STARTING, (StartVmm(1, None),)),
    (PENDING, StartFailed(1, 5, ERROR), Phase.OFF, (Discard(), TellFatal(ERROR))),
    (PENDING, KillWanted("x"), Phase.OFF, ()),
    (STARTING, VmmStarted(1), Phase.COMING_UP, (TellStage(Stage.VMM), ComeUp(1))),
    (TEMPLATE_STARTING, VmmStarted(1), Phase.COMING_UP, (TellStage(Stage.VMM), ComeUp(1))),
    (TEMPLATE_STARTING, StartFailed(1, 11, ERROR), Phase.OFF, (Discard(), TellFatal(ERROR))),
    (TEMPLATE, exited(BAD), Phase.OFF, (TellExit(BAD), TellFatal(DEATH))),
    (CLONE_STARTING, VmmStarted(1), Phase.ON_TRIAL, (TellStage(Stage.VMM), TryClone(1))),
    (RETURN_STARTING, VmmStarted(1), Phase.ON_TRIAL, (TellStage(Stage.VMM), TryClone(1))),
    (replace(STARTING, stage=Stage.INIT), VmmStarted(1), Phase.COMING_UP,
     (TellStage(Stage.VMM), TellStage(Stage.KERNEL), TellStage(Stage.INIT), ComeUp(1))),
    (STARTING, StartFailed(1, 11, ERROR), Phase.OFF, (Discard(), TellFatal(ERROR))),
    (CLONE_STARTING, StartFailed(1, 11, ERROR), Phase.STARTING, BOOTS),
    (RETURN_STARTING, StartFailed(1, 11, ERROR), Phase.OFF, (Discard(), TellFatal(ERROR))),
    (STARTING, KillWanted("x"), Phase.STARTING, ()),
    (replace(STARTING, killed=True), VmmStarted(1), Phase.STOPPING, (KillVmm(),)),
    (replace(STARTING, killed=True, ending=True), StartFailed(1, 11, ERROR), Phase.OFF,
     (Discard(),)),
    (ON_TRIAL, Introduced(1, 20), Phase.PROBATION, (TellStage(Stage.READY, 10),)),
    (RETURNING, Introduced(1, 20), Phase.READY, (TellStage(Stage.READY, 10),)),
    (ON_TRIAL, StartFailed(1, 11, ERROR), Phase.STARTING, BOOTS),
    (ON_TRIAL, exited(BAD), Phase.STARTING, LOST),
    (ON_TRIAL, exited(GOOD), Phase.STARTING, LOST),
    (replace(ON_TRIAL, may_boot=False), StartFailed(1, 11, ERROR), Phase.OFF,
     (Discard(), TellFatal(ERROR))),
    (RETURNING, exited(BAD), Phase.OFF, (Discard(), TellFatal(DEATH))),
    (replace(ON_TRIAL, ending=True), StartFailed(1, 11, ERROR), Phase.OFF, (Discard(),)),
    (PROBATION, Used(), Phase.READY, ()),
    (IN_USE, Served(), Phase.READY, ()),
    (PROBATION, exited(BAD, 21), Phase.STARTING,
     (TellExit(BAD), Discard(), ReportSpoilt(DEATH, 1), StartVmm(2, None))),
    (PROBATION, exited(BAD, 23), Phase.OFF, (TellExit(BAD), TellFatal(DEATH))),
    (PROBATION, exited(GOOD, 21), Phase.OFF, (TellExit(GOOD),)),
    (replace(PROBATION, may_boot=False), exited(BAD, 21), Phase.OFF,
     (TellExit(BAD), ReportSpoilt(DEATH, 1), TellFatal(DEATH, 1))),
    (IN_USE, exited(BAD, 21), Phase.OFF,
     (TellExit(BAD), ReportSpoilt(DEATH, 1), TellFatal(DEATH, 1))),
    *((each, exited(bad, 21), Phase.OFF, (TellExit(bad), TellFatal(DEATH)))
      for each, bad in (
          (replace(IN_USE, served=True), BAD),
          (IN_USE, VmmExit(-9, False, "")),
          (PROBATION, VmmExit(-15, False, "")),
          (replace(IN_USE, panic="Kernel panic - not syncing: sysrq triggered crash"), BAD),
      )),
    (replace(PROBATION, panic="Kernel panic - not syncing: sysrq triggered crash"),
     exited(BAD, 21), Phase.STARTING,
     (TellExit(BAD), Discard(), ReportSpoilt(DEATH, 1), StartVmm(2, None))),
    (IN_USE, exited(BAD, 23), Phase.OFF, (TellExit(BAD), TellFatal(DEATH))),
    (COMING_UP, AgentAnswered(1), Phase.COMING_UP, (TellStage(Stage.AGENT),)),
    (COMING_UP, Introduced(1, 20), Phase.COMING_UP, ()),
    (COMING_UP, CameUp(1, 20), Phase.READY, (TellStage(Stage.READY, 10),)),
    (COMING_UP, StartFailed(1, 20, ERROR), Phase.FAILED, (TellFatal(ERROR),)),
    (COMING_UP, exited(BAD), Phase.OFF, (TellExit(BAD), TellFatal(DEATH))),
    (COMING_UP, exited(GOOD), Phase.OFF, (TellExit(GOOD), TellFatal(DEATH))),
    (replace(COMING_UP, ending=True), exited(BAD), Phase.OFF, (TellExit(BAD),)),
    (FAILED, exited(BAD), Phase.OFF, (TellExit(BAD),)),
    (READY, exited(BAD), Phase.OFF, (TellExit(BAD), TellFatal(DEATH))),
    (READY, exited(GOOD), Phase.OFF, (TellExit(GOOD),)),
    (replace(READY, panic="Kernel panic"), exited(GOOD), Phase.OFF,
     (TellExit(GOOD), TellFatal(DEATH))),
    (replace(READY, ending=True), exited(BAD), Phase.OFF, (TellExit(BAD),)),
    *((each, GuestReset(1, 30), Phase.COMING_UP, (TellReset(), *COMES_UP_AGAIN))
      for each in (ON_TRIAL, PROBATION, COMING_UP, READY, FAILED, IN_USE, RETURNING)),
    (COMING_UP, StoodStill(1, ERROR), Phase.FAILED, (TellFatal(ERROR), STOPS)),
    *((each, StoodStill(1, ERROR), each.phase, (TellFatal(ERROR), STOPS))
      for each in (ON_TRIAL, PROBATION, READY, FAILED)),
    (READY, BeginAnew(30, "kexec"), Phase.COMING_UP, (Interrupt("kexec", 2), ComeUp(2))),
    (replace(READY, ending=True), GuestReset(1, 30), Phase.COMING_UP,
     (TellReset(), *COMES_UP_AGAIN)),
    *((each, KillWanted("x"), Phase.STOPPING, (Interrupt("x", 2), KillVmm()))
      for each in (ON_TRIAL, PROBATION, COMING_UP, READY, FAILED)),
    (replace(ON_TRIAL, ahead=True), CameUpAhead(1), Phase.STANDBY, ()),
    (replace(COMING_UP, ahead=True), CameUpAhead(1), Phase.STANDBY, ()),
    (ON_TRIAL, CameUpAhead(1), Phase.ON_TRIAL, (Join(1),)),
    (replace(ON_TRIAL, ahead=True), Called(40), Phase.ON_TRIAL, ()),
    (STANDBY, Called(40), Phase.ON_TRIAL, (Join(1),)),
    (replace(STANDBY, kind=StartKind.BOOT), Called(40), Phase.COMING_UP, (Join(1),)),
    (STANDBY, exited(BAD), Phase.OFF, (TellExit(BAD),)),
    (STANDBY, GuestReset(1, 30), Phase.STOPPING, (KillVmm(),)),
    (STANDBY, KillWanted("x"), Phase.STOPPING, (Interrupt("x", 2), KillVmm())),
    (replace(COMING_UP, ahead=True), StartFailed(1, 20, ERROR), Phase.FAILED, ()),
    (replace(COMING_UP, ahead=True), exited(BAD), Phase.OFF, (TellExit(BAD),)),
    (STOPPING, exited(BAD), Phase.OFF, (TellExit(BAD),)),
    (STOPPING, StartFailed(1, 20, ERROR), Phase.STOPPING, ()),
    (DIED, KillWanted("x"), Phase.OFF, ()),
    (DIED, GuestReset(1, 30), Phase.OFF, ()),
]  # fmt: skip


@pytest.mark.parametrize(("state", "event", "phase", "effects"), TABLE)
def test_the_table(state: State, event: Event, phase: Phase, effects: tuple[Effect, ...]) -> None:
    new, done = advance(state, event, DEFAULT_LIMITS)
    assert (new.phase, done) == (phase, effects)


def test_a_machine_that_came_up_ahead_counts_from_its_start() -> None:
    called, _ = advance(STANDBY, Called(40), DEFAULT_LIMITS)
    assert advance(called, Introduced(1, 42), DEFAULT_LIMITS)[1] == (TellStage(Stage.READY, 2),)


def test_a_guest_that_begins_anew_is_a_fresh_boot() -> None:
    used = replace(IN_USE, panic="Kernel panic", outcome=Outcome(ERROR))
    new, _ = advance(used, GuestReset(1, 30), DEFAULT_LIMITS)
    assert new == replace(
        used, phase=Phase.COMING_UP, kind=StartKind.BOOT, attempt=2, stage=Stage.VMM, since=30,
        introduced=False, panic="", resets=1, outcome=None,
    )  # fmt: skip


@pytest.mark.parametrize("event", [GuestReset(1, 30), VmmExited(1, 30, GOOD, DEATH, resets=True)])
def test_a_guest_that_is_reset_while_it_comes_up_has_no_more_time_for_that(event: Event) -> None:
    assert advance(COMING_UP, event, DEFAULT_LIMITS)[0].since == 10
    assert advance(READY, event, DEFAULT_LIMITS)[0].since == 30


def test_a_boot_in_the_place_of_a_clone_has_a_new_deadline_and_a_vmm_of_its_own() -> None:
    new, _ = advance(replace(ON_TRIAL, panic="Kernel panic"), exited(BAD, 50), DEFAULT_LIMITS)
    assert (new.attempt, new.process, new.since, new.kind) == (2, 2, 50, StartKind.BOOT)
    assert (new.stage, new.panic, new.introduced) == (Stage.OFF, "", False)


def test_what_is_told_of_an_attempt_that_is_over_changes_nothing() -> None:
    again, _ = advance(READY, GuestReset(1, 30), DEFAULT_LIMITS)
    for late in (StartFailed(1, 31, ERROR), CameUp(1, 31), Introduced(1, 31), AgentAnswered(1)):
        assert advance(again, late, DEFAULT_LIMITS) == (again, ())


def test_what_is_told_of_a_vmm_that_has_gone_changes_nothing() -> None:
    booting, _ = advance(ON_TRIAL, StartFailed(1, 11, ERROR), DEFAULT_LIMITS)
    for late in (exited(BAD), GuestReset(1, 12), Panicked(1, "panic"), ConsoleSpoke(1, Stage.INIT)):
        assert advance(booting, late, DEFAULT_LIMITS) == (booting, ())


def test_the_vmm_of_a_guest_that_was_reset_can_still_end() -> None:
    again, _ = advance(READY, GuestReset(1, 30), DEFAULT_LIMITS)
    new, _ = advance(again, exited(BAD), DEFAULT_LIMITS)
    assert new.outcome == Outcome(DEATH, died=True)


def test_an_end_that_did_not_come_is_a_failure_again() -> None:
    wanted, _ = advance(READY, EndWanted(), DEFAULT_LIMITS)
    retracted, _ = advance(wanted, EndRetracted(), DEFAULT_LIMITS)
    new, _ = advance(retracted, exited(BAD), DEFAULT_LIMITS)
    assert new.outcome == Outcome(DEATH, died=True)


def test_a_death_can_be_accepted_and_an_instance_that_runs_cannot() -> None:
    assert advance(DIED, EndAccepted(), DEFAULT_LIMITS)[0].outcome == Outcome()
    assert advance(READY, EndAccepted(), DEFAULT_LIMITS) == (READY, ())


# Whatever happens

attempts = st.integers(0, 4)
times = st.floats(0, 1000)
exits = st.sampled_from([BAD, GOOD, VmmExit(-9, True, "")])
events = st.one_of(
    st.builds(SourceFound, attempts, times, st.just(SAVED), st.booleans()),
    st.builds(SourceFound, attempts, times, st.none(), st.booleans(), st.booleans()),
    st.builds(VmmStarted, attempts),
    st.builds(AgentAnswered, attempts),
    st.builds(Introduced, attempts, times),
    st.builds(CameUp, attempts, times),
    st.builds(CameUpAhead, attempts),
    st.builds(Called, times),
    st.builds(StartFailed, attempts, times, st.just(ERROR)),
    st.builds(VmmExited, attempts, times, exits, st.just(DEATH), st.booleans()),
    st.builds(PowerOffBegun, attempts),
    st.builds(StoodStill, attempts, st.just(ERROR)),
    st.builds(RebootWanted, st.booleans()),
    st.builds(GuestReset, attempts, times),
    st.builds(ConsoleSpoke, attempts, st.sampled_from([Stage.KERNEL, Stage.INIT])),
    st.builds(Panicked, attempts, st.just("Kernel panic")),
    st.builds(BeginAnew, times, st.just("anew")),
    st.sampled_from([Used(), EndWanted(), EndRetracted(), EndAccepted(), KillWanted("x")]),
)
kinds = st.sampled_from([StartKind.BOOT, StartKind.RETURN])


@given(kinds, st.lists(events, max_size=40))
def test_once_off_it_stays_off_and_starts_nothing(kind: StartKind, happened: list[Event]) -> None:
    state = State(kind=kind)
    for event in happened:
        was_off = state.phase is Phase.OFF
        state, effects = advance(state, event, DEFAULT_LIMITS)
        if was_off:
            assert state.phase is Phase.OFF
            assert effects == ()


@given(kinds, st.lists(events, max_size=40))
def test_attempts_only_grow_and_only_one_start_is_under_way(
    kind: StartKind, happened: list[Event]
) -> None:
    state = State(kind=kind)
    for event in happened:
        before = state
        state, effects = advance(state, event, DEFAULT_LIMITS)
        assert state.attempt >= before.attempt
        started = [each for each in effects if isinstance(each, StartVmm)]
        assert len(started) <= 1
        for each in started:
            assert each.attempt == state.attempt == state.process
            assert state.phase is Phase.STARTING
            if before.process and not isinstance(event, VmmExited):  # the one before it goes first
                assert Discard() in effects[: effects.index(each)]


class World:
    """What carries effects out, as the worker and the VMMs would: in some order, and some fail."""

    def __init__(self, kind: StartKind) -> None:
        self.state = State(kind=kind)
        self.queue: list[Effect] = []
        self.running: set[int] = set()
        self.now = 0.0

    def post(self, event: Event) -> None:
        self.state, effects = advance(self.state, event, DEFAULT_LIMITS)
        for each in effects:
            if isinstance(each, KillVmm):
                self.end_all()
            else:
                self.queue.append(each)

    def end_all(self) -> None:
        for process in sorted(self.running):
            self.exit(process, VmmExit(-9, True, ""))

    def exit(self, process: int, exit: VmmExit) -> None:
        self.running.discard(process)
        self.post(VmmExited(process, self.now, exit, DEATH))

    def work(self, data: st.DataObject) -> None:
        """Carry out the next effect, well or badly."""
        self.now += data.draw(st.sampled_from([0.1, 1.0, 5.0]))
        if not self.queue:
            return
        effect = self.queue.pop(0)
        well = data.draw(st.booleans())
        match effect:
            case StartVmm(attempt=attempt) if self.state.killed or not well:
                self.post(StartFailed(attempt, self.now, ERROR))
            case StartVmm(attempt=attempt):
                self.running.add(attempt)
                self.post(VmmStarted(attempt))
            case TryClone(attempt=attempt) | ComeUp(attempt=attempt):
                if not well:
                    self.post(StartFailed(attempt, self.now, ERROR))
                    return
                self.post(AgentAnswered(attempt))
                self.post(Introduced(attempt, self.now))
                if isinstance(effect, ComeUp):
                    self.post(CameUp(attempt, self.now))
            case Discard():
                self.end_all()


def test_what_is_done_to_a_template_waits_until_it_was_saved() -> None:
    assert TEMPLATE.apart
    known, _ = advance(TEMPLATE, Introduced(1, 20), DEFAULT_LIMITS)
    assert not known.apart
    rebooted, _ = advance(TEMPLATE, GuestReset(1, 20), DEFAULT_LIMITS)
    assert not rebooted.apart
    assert rebooted.kind is StartKind.BOOT
    failed, _ = advance(TEMPLATE, StartFailed(1, 20, ERROR), DEFAULT_LIMITS)
    assert not failed.apart


def test_what_is_done_to_one_that_came_up_ahead_waits_until_it_has_joined() -> None:
    ahead = replace(COMING_UP, ahead=True, joins=True)
    assert ahead.apart
    standby, _ = advance(ahead, CameUpAhead(1), DEFAULT_LIMITS)
    assert standby.phase is Phase.STANDBY
    called, _ = advance(standby, Called(20), DEFAULT_LIMITS)
    assert called.apart
    up, _ = advance(called, CameUp(1, 21), DEFAULT_LIMITS)
    assert not up.apart


@given(kinds, st.booleans(), st.booleans(), st.data())
def test_every_vmm_that_was_started_ends_and_every_waiter_is_released(
    kind: StartKind, clone: bool, may_boot: bool, data: st.DataObject
) -> None:
    world = World(kind)
    is_template = not clone and data.draw(st.booleans())
    world.post(SourceFound(1, 0, SAVED if clone else None, may_boot, is_template))
    for _ in range(data.draw(st.integers(0, 20))):
        match data.draw(
            st.sampled_from(["work", "work", "reset", "exit", "use", "reboot", "want", "retract"])
        ):
            case "work":
                world.work(data)
            case "reset" if world.running:
                world.post(GuestReset(max(world.running), world.now))
            case "exit" if world.running:
                world.exit(max(world.running), data.draw(st.sampled_from([BAD, GOOD])))
            case "use":
                world.post(Used())
            case "reboot":
                world.post(RebootWanted(True))
            case "want":
                world.post(EndWanted())
            case "retract":
                world.post(EndRetracted())
    # Who waits for it to be ready need not wait for ever: the worker's list comes to an end.
    for _ in range(20):
        world.work(data)
    assert not world.queue
    assert world.state.settled
    world.post(KillWanted("x"))
    for _ in range(5):
        world.work(data)
    assert world.state.phase is Phase.OFF
    assert not world.running
