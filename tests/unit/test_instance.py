"""An instance from start to end, with a VMM that does what the test says."""

from __future__ import annotations

import re
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from attest.errors import AttestError, ChannelError, MachineError
from attest.events import Event, EventLog, Kind
from attest.guest.channel import Channel, PowerAction
from attest.guest.identity import Identity
from attest.machine.contracts import Ahead, InstanceContext
from attest.machine.instance import Instance, Return
from attest.machine.instance_states import Limits, Stage
from attest.machine.lifecycle import Lifecycle
from attest.machine.meeting import Meeting
from attest.support.concurrency import call_in_thread
from attest.vmm.base import Saved, SaveError
from tests.unit.fake_vmm import FakeGuest

SAVED = Saved(Path("memory"), Path("state"))
QUICK = Limits(trial=0.2, reaped=0.2)
PATIENT = Limits(trial=30, probation=1000, reaped=30)


@dataclass
class FakeSource:
    """What a machine starts from.

    Attributes:
        saved: The snapshot, or None to boot.
        may_boot: It may boot instead.
        reports: Why the snapshot was of no use.
    """

    saved: Saved | None = None
    may_boot: bool = True
    reports: list[str] = field(default_factory=list)

    def find(self) -> Saved | None:
        return self.saved

    def report_spoilt(self, reason: str) -> None:
        self.reports.append(reason)


class World:
    """An instance, and all that it meets."""

    def __init__(self, directory: Path, **source: Any) -> None:
        self.guest = FakeGuest()
        self.source = FakeSource(**source)
        self.fatal: list[AttestError] = []
        self.cables: list[bool] = []
        self.told: list[Event] = []
        events = EventLog()
        events.subscribe(self.told.append)
        self.context = InstanceContext(
            events=events,
            vmm="fake",
            start_vmm=self.guest.start,
            make_channel=cast("Callable[..., Channel]", self.guest.make_channel),
            identity=lambda: Identity(hostname="m"),
            ready_unit="multi-user.target",
            start_timeout=30,
            console_log=directory / "console.log",
            on_fatal=self.fatal.append,
            require_open=lambda: None,
            ahead=Ahead(directory / "ahead.log", self.cables.append, lambda: None),
            limits=PATIENT,
        )
        self.instances: list[Instance] = []

    def start(
        self, *, allow_reboot: bool = False, back: Return | None = None, ahead: bool = False
    ) -> Instance:
        instance = Instance(
            "m", self.context, self.source, allow_reboot=allow_reboot, back=back,
            ahead=self.context.ahead if ahead else None,
        )  # fmt: skip
        self.instances.append(instance)
        instance.begin()
        return instance

    def limits(self, limits: Limits) -> None:
        self.context = replace(self.context, limits=limits)

    def stages(self) -> list[str]:
        return [event.text for event in self.told if event.kind is Kind.STAGE]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []
    before = set(threading.enumerate())

    def new(**source: Any) -> World:
        worlds.append(World(tmp_path, **source))
        return worlds[-1]

    yield new
    for world in worlds:
        for instance in world.instances:
            instance.kill()
        for vmm in world.guest.vmms:
            assert vmm.exit is not None
            vmm.watcher.join(30)  # of one that was abandoned, nobody waits for it
        assert all(vmm.console.output.closed for vmm in world.guest.vmms)
    for thread in threading.enumerate():  # a worker that has nothing to do ends by itself
        if thread.name == "instance m":
            thread.join(30)
    assert set(threading.enumerate()) <= before


def waiting(call: Callable[[], Any]) -> Future[Any]:
    """Call it in a thread; its result must come within a minute."""
    return call_in_thread(call, "waiter")


# Boot


def test_a_boot_comes_up_and_powers_off(make: Callable[..., World]) -> None:
    world = make()
    instance = world.start()
    assert instance.ready() is cast("object", world.guest.channels[0])
    assert world.guest.identities == [Identity(hostname="m")]
    assert world.stages() == [Stage.VMM, Stage.AGENT, Stage.READY]
    instance.want_end()
    world.guest.vmms[0].end(0, expected=True)
    assert instance.death is None
    assert (instance.ended, instance.absence) == (True, "off")
    assert world.fatal == []


def test_the_console_tells_the_stages_of_a_boot(make: Callable[..., World]) -> None:
    world = make()
    world.guest.answers = False
    instance = world.start()
    vmm = world.guest.await_vmm()
    reached = threading.Event()
    world.context.events.subscribe(
        lambda event: reached.set() if event.text == Stage.INIT else None
    )
    vmm.say("Linux version")
    vmm.say("attest-stage: init")
    assert reached.wait(30)
    world.guest.set(answers=True)
    instance.ready()
    assert world.stages() == [Stage.VMM, Stage.KERNEL, Stage.INIT, Stage.AGENT, Stage.READY]


def test_a_vmm_that_does_not_start_is_a_failure_that_says_why(make: Callable[..., World]) -> None:
    world = make()
    world.guest.refuses_to_start = [TimeoutError()]
    instance = world.start()
    with pytest.raises(MachineError, match=r"m: its VMM could not be started: TimeoutError"):
        instance.ready()
    with pytest.raises(MachineError, match="could not be started"):
        _ = instance.vmm
    assert instance.ended
    assert len(world.fatal) == 1


def test_an_error_tells_each_caller_where_that_one_met_it(make: Callable[..., World]) -> None:
    world = make()
    world.guest.refuses_to_start = [TimeoutError()]
    instance = world.start()

    def first() -> None:
        instance.ready()

    def second() -> None:
        instance.ready()

    for call, caller, other in ((first, "first", "second"), (second, "second", "first")):
        with pytest.raises(MachineError) as raised:
            call()
        with pytest.raises(MachineError):  # as a script's `finally` meets it meanwhile
            (second if call is first else first)()
        names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
        assert caller in names
        assert other not in names


def test_an_error_met_while_another_is_handled_shows_both(make: Callable[..., World]) -> None:
    world = make()
    world.guest.refuses_to_start = [TimeoutError()]
    instance = world.start()

    def script() -> None:
        try:
            raise ValueError("the script's own")
        finally:
            instance.ready()

    with pytest.raises(MachineError) as raised:
        script()
    assert "the script's own" in "".join(traceback.format_exception(raised.value))


def test_a_console_that_cannot_be_logged_takes_its_vmm_along(make: Callable[..., World]) -> None:
    world = make()
    world.context = replace(world.context, console_log=Path("/proc/none/console.log"))
    with pytest.raises(MachineError, match="could not be started"):
        world.start().ready()
    assert world.guest.vmms[0].exit is not None


def test_a_boot_that_dies_says_how(make: Callable[..., World]) -> None:
    world = make()
    world.guest.answers = False
    instance = world.start()
    ready = waiting(instance.ready)
    world.guest.await_vmm().end(1)
    with pytest.raises(MachineError, match=r"the VMM ended \(exit code 1\)"):
        ready.result(60)
    assert instance.death is not None
    instance.kill()
    assert [error.message for error in world.fatal] == [instance.death.message]


def test_a_boot_that_is_late_says_how_far_it_came(make: Callable[..., World]) -> None:
    world = make()
    world.context = replace(world.context, start_timeout=0.1, limits=QUICK)
    world.guest.answers = False
    instance = world.start()
    with pytest.raises(MachineError, match=r"did not come up in 0\.1 s; the last stage .* VMM"):
        instance.ready()
    assert not instance.ended  # its console is there to be looked at
    assert instance.console is not None


def test_a_panic_is_what_a_death_is_told_as(make: Callable[..., World]) -> None:
    world = make()
    instance = world.start()
    instance.ready()
    vmm = world.guest.vmms[0]
    vmm.say("[    1.000000] Kernel panic - not syncing: test")
    vmm.end(0)
    assert instance.death is not None
    assert "kernel panic: [    1.000000] Kernel panic" in instance.death.message


# Clones


def test_a_clone_comes_to_life_as_a_copy(make: Callable[..., World]) -> None:
    world = make(saved=SAVED)
    world.start().ready()
    assert world.guest.vmms[0].resumed
    assert world.guest.identities == [Identity(hostname="m", copy=True)]
    assert world.source.reports == []


# Ahead of its machine's start


@pytest.mark.parametrize("saved", [None, SAVED])
def test_one_that_came_up_ahead_joins_the_others_when_it_is_called(
    make: Callable[..., World], tmp_path: Path, saved: Saved | None
) -> None:
    world = make(saved=saved)
    instance = world.start(ahead=True)
    instance.await_standby()
    (vmm,) = world.guest.vmms
    assert (world.cables, vmm.resumed, instance.stage) == ([False], False, "agent")
    vmm.say("before")
    ready = waiting(instance.ready)
    instance.call()
    ready.result(60)
    assert (world.cables, vmm.resumed) == ([False, True], True)
    assert world.guest.identities[1:] == [Identity()]  # what has changed meanwhile
    vmm.say("after")
    vmm.end(0)
    instance.kill()
    assert (tmp_path / "console.log").read_text() == "before\nafter\n"
    assert not (tmp_path / "ahead.log").exists()


def test_one_that_is_called_while_it_comes_up_does_not_stand_by(
    make: Callable[..., World], tmp_path: Path
) -> None:
    world = make(saved=SAVED)
    instance = world.start(ahead=True)
    instance.call()
    instance.ready()
    assert world.cables[-1]
    assert world.guest.vmms[0].resumed


def test_one_that_dies_ahead_is_of_no_use_and_nobody_is_told(make: Callable[..., World]) -> None:
    world = make(saved=SAVED)
    instance = world.start(ahead=True)
    instance.await_standby()
    assert instance.may_be_called
    world.guest.vmms[0].end(1)
    instance.kill()
    assert not instance.may_be_called
    assert (world.fatal, world.source.reports, len(world.guest.vmms)) == ([], [], 1)


@pytest.mark.parametrize("kind", ["serial", "vsock"])
def test_a_clone_that_never_answers_boots(make: Callable[..., World], kind: str) -> None:
    world = make(saved=SAVED)
    world.limits(QUICK)
    world.guest.set(answers=False, kind=kind)
    instance = world.start()
    world.guest.await_vmm(2)
    world.guest.set(answers=True)
    instance.ready()
    assert world.guest.started_from == [SAVED, None]
    assert len(world.source.reports) == 1
    assert world.guest.identities[-1] == Identity(hostname="m")
    assert world.fatal == []


@pytest.mark.parametrize("refuses", ["refuses_to_start", "refuses_to_resume"])
def test_a_clone_that_is_refused_boots(make: Callable[..., World], refuses: str) -> None:
    world = make(saved=SAVED)
    world.guest.set(**{refuses: [SaveError("bad state")]})
    world.start().ready()
    assert world.guest.started_from == [SAVED, None]
    assert world.source.reports == ["did not come back from its snapshot: bad state"]


def test_a_clone_that_dies_on_trial_boots(make: Callable[..., World]) -> None:
    world = make(saved=SAVED)
    world.guest.answers = False
    instance = world.start()
    world.guest.await_vmm().end(1)
    world.guest.await_vmm(2)
    world.guest.set(answers=True)
    instance.ready()
    assert len(world.source.reports) == 1
    assert world.fatal == []


def test_a_source_that_cannot_take_the_report_holds_up_nobody(make: Callable[..., World]) -> None:
    class Confused(FakeSource):
        def report_spoilt(self, reason: str) -> None:
            raise KeyError("shape")

    world = make(saved=SAVED)
    world.source = Confused(SAVED)
    world.guest.refuses_to_resume = [SaveError("bad state")]
    waiting(world.start().ready).result(60)
    warnings = [event.text for event in world.told if event.kind is Kind.WARNING]
    assert warnings == ["ReportSpoilt: 'shape'"]


def test_who_is_told_of_a_death_may_raise(make: Callable[..., World]) -> None:
    def refuse(error: AttestError) -> None:
        raise SystemExit(1)

    world = make()
    world.context = replace(world.context, on_fatal=refuse)
    instance = world.start()
    instance.ready()
    world.guest.vmms[0].end(1)
    waiting(instance.kill).result(60)
    assert instance.death is not None


def test_a_kill_that_was_interrupted_can_be_made_again(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    instance = world.start()
    instance.ready()

    def interrupt() -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(world.guest.vmms[0], "kill", interrupt)
    with pytest.raises(KeyboardInterrupt):
        instance.kill()
    waiting(instance.kill).result(60)
    assert world.guest.vmms[0].exit is not None


def test_one_that_never_began_can_be_ended(make: Callable[..., World]) -> None:
    world = make()
    instance = Instance("m", world.context, world.source, allow_reboot=False)
    waiting(instance.kill).result(60)
    assert world.guest.vmms == []


def test_a_channel_has_one_owner(make: Callable[..., World]) -> None:
    world = make()
    first = world.start()
    first.ready()
    first.leave("the machine was restored to 'x'")
    channel = first.take_channel()
    back = Return(SAVED, "the machine was restored to 'x'", channel, Meeting(1))
    second = world.start(back=back)
    second.ready()
    first.kill()  # as one who waited for its end does
    assert not world.guest.channels[0].closed


def test_a_death_that_has_come_does_not_pass_for_one_that_is_wanted_later(
    make: Callable[..., World],
) -> None:
    world = make()
    instance = world.start()
    instance.ready()
    world.guest.vmms[0].end(1)
    instance.want_end()
    assert instance.death is not None


def test_one_that_dies_while_it_waits_for_the_others_releases_them(
    make: Callable[..., World],
) -> None:
    well, ill = make(), make()
    meeting = Meeting(3)  # the third never comes
    one = well.start(back=Return(SAVED, "restored", None, meeting))
    ill.start(back=Return(SAVED, "restored", None, meeting))
    well.guest.await_vmm()
    ill.guest.await_vmm().end(1)
    with pytest.raises(MachineError, match=r"m did not come back: the VMM ended"):
        waiting(one.ready).result(60)


def test_a_clone_that_may_not_boot_fails(make: Callable[..., World]) -> None:
    world = make(saved=SAVED, may_boot=False)
    world.guest.refuses_to_resume = [SaveError("bad state")]
    with pytest.raises(MachineError, match="m: did not come back from its snapshot: bad state"):
        world.start().ready()
    assert world.guest.started_from == [SAVED]


def test_a_clone_that_dies_unused_boots(make: Callable[..., World]) -> None:
    world = make(saved=SAVED)
    instance = world.start()
    while instance.stage is not Stage.READY:
        _ = instance.vmm
    world.guest.vmms[0].end(1)
    world.guest.await_vmm(2)
    instance.ready()
    assert "after its first answer" in world.source.reports[0]
    assert world.fatal == []


def test_a_clone_that_dies_in_use_is_told_with_its_snapshot(make: Callable[..., World]) -> None:
    world = make(saved=SAVED)
    instance = world.start()
    instance.ready()
    world.guest.vmms[0].end(1)
    assert instance.death is not None
    instance.kill()
    assert "restored from a snapshot" in instance.death.hint
    assert len(world.source.reports) == len(world.fatal) == 1


# Returns


def test_a_return_keeps_who_it_was(make: Callable[..., World]) -> None:
    world = make()
    first = world.start()
    first.ready()
    first.leave("the machine was restored to 'x'")
    channel = first.take_channel()
    back = Return(SAVED, "the machine was restored to 'x'", channel, Meeting(1))
    second = world.start(back=back)
    assert second.ready() is channel
    assert world.guest.identities[-1].hostname is None


def test_all_who_meet_are_told_who_did_not_come(make: Callable[..., World]) -> None:
    well, ill = make(), make()
    ill.guest.refuses_to_start = [SaveError("bad state")]
    meeting = Meeting(2)
    one = well.start(back=Return(SAVED, "restored", None, meeting))
    other = ill.start(back=Return(SAVED, "restored", None, meeting))
    with pytest.raises(MachineError, match="did not come back from its snapshot: bad state"):
        other.ready()
    with pytest.raises(MachineError, match=r"as not all did: m did not come back: .*bad state"):
        one.ready()


def test_one_that_is_ended_does_not_hold_up_the_others(make: Callable[..., World]) -> None:
    world = make()
    meeting = Meeting(2)
    instance = world.start(back=Return(SAVED, "restored", None, meeting))
    world.guest.await_vmm()
    instance.kill()
    with pytest.raises(MachineError):
        instance.ready()


# Reboots


def rebooting(world: World) -> Instance:
    instance = world.start(allow_reboot=True)
    instance.ready()
    world.guest.on_power = lambda action: (
        world.guest.vmms[0].reset() if action is PowerAction.REBOOT else None
    )
    return instance


def test_a_reboot_comes_up_as_a_boot(make: Callable[..., World]) -> None:
    world = make(saved=SAVED)
    instance = rebooting(world)
    instance.reboot(30)
    assert world.guest.identities == [
        Identity(hostname="m", copy=True),
        Identity(hostname="m"),
    ]
    assert world.guest.channels[0].sessions == 2


@pytest.mark.parametrize("kind", ["serial", "vsock"])
def test_a_guest_that_resets_before_its_agent_was_reached_comes_up(
    make: Callable[..., World], kind: str
) -> None:
    world = make()
    world.guest.set(answers=False, kind=kind)
    instance = world.start(allow_reboot=True)
    assert instance.vmm is cast("object", world.guest.vmms[0])
    world.guest.vmms[0].reset()
    world.guest.set(answers=True)
    waiting(instance.ready).result(60)
    assert world.fatal == []


@pytest.mark.parametrize("kind", ["serial", "vsock"])
def test_a_guest_that_resets_and_never_answers_is_told(
    make: Callable[..., World], kind: str
) -> None:
    world = make()
    world.context = replace(world.context, start_timeout=1, limits=QUICK)
    world.guest.set(answers=False, kind=kind)
    instance = world.start(allow_reboot=True)
    assert instance.vmm is cast("object", world.guest.vmms[0])
    world.guest.vmms[0].reset()
    with pytest.raises(MachineError, match="did not come up"):
        waiting(instance.ready).result(60)


def test_a_guest_that_resets_while_its_unit_is_awaited_comes_up(
    make: Callable[..., World],
) -> None:
    world = make()
    world.guest.unit_active = False
    instance = world.start(allow_reboot=True)
    while instance.absence:
        _ = instance.vmm
    for _ in range(3):  # told in several ways at once
        world.guest.vmms[0].reset()
    world.guest.set(unit_active=True)
    waiting(instance.ready).result(60)
    assert world.fatal == []


def test_what_is_told_late_of_a_reset_does_not_end_the_greeting_that_follows(
    make: Callable[..., World],
) -> None:
    world = make()
    instance = rebooting(world)
    world.guest.set(unit_active=False)

    def greeted_again() -> bool:
        return world.guest.channels[0].sessions == 2

    def hold_up(event: Event) -> None:
        """Where the reset is told, its other effects wait for the worker to get ahead."""
        if event.text == "the guest reboots":
            with world.guest.changed:
                world.guest.changed.wait_for(greeted_again, 30)

    world.context.events.subscribe(hold_up)
    world.guest.vmms[0].reset()
    world.guest.set(unit_active=True)
    waiting(instance.ready).result(60)
    assert greeted_again()
    assert world.fatal == []


def test_a_panic_of_a_boot_before_is_not_blamed_later(make: Callable[..., World]) -> None:
    world = make()
    instance = rebooting(world)
    world.guest.vmms[0].say("[    1.000000] Kernel panic - not syncing: test")
    instance.console.search(re.compile("panic"), 30)
    world.guest.vmms[0].reset()
    instance.ready()
    world.guest.vmms[0].end(0, expected=True)
    assert instance.death is None


def test_a_vmm_that_dies_while_rebooting_is_told_as_dead(make: Callable[..., World]) -> None:
    world = make()
    instance = world.start(allow_reboot=True)
    instance.ready()
    world.guest.on_power = lambda _: world.guest.vmms[0].end(1)
    with pytest.raises(MachineError, match=r"the VMM ended \(exit code 1\)"):
        instance.reboot(30)


def test_a_guest_that_does_not_reboot_is_told_after_its_limit(make: Callable[..., World]) -> None:
    world = make()
    instance = world.start()
    assert not instance.reboot(0.1)
    world.guest.vmms[0].end(0, expected=True)  # which is no reboot that is wanted
    assert instance.death is None
    assert (instance.ended, len(world.guest.vmms)) == (True, 1)


def test_a_reboot_that_could_not_be_asked_for_is_not_expected(make: Callable[..., World]) -> None:
    world = make()
    instance = world.start()
    instance.ready()

    def refuse(action: PowerAction) -> None:
        raise ChannelError("m", "the agent refuses")

    world.guest.on_power = refuse
    with pytest.raises(ChannelError, match="refuses"):
        instance.reboot(30)
    world.guest.vmms[0].end(0, expected=True)  # it powers off by itself
    assert instance.death is None
    assert (instance.ended, len(world.guest.vmms)) == (True, 1)


def test_a_guest_that_reboots_in_a_loop_is_late_at_last(make: Callable[..., World]) -> None:
    world = make()
    world.context = replace(world.context, start_timeout=0.5, limits=QUICK)
    world.guest.answers = False
    instance = world.start(allow_reboot=True)
    vmm, over = world.guest.await_vmm(), threading.Event()

    def loop() -> None:
        while not over.wait(0.05):
            if not world.fatal:
                vmm.reset()

    looping = waiting(loop)
    try:
        with pytest.raises(MachineError, match=r"did not come up in 0\.5 s, as it reboots"):
            waiting(instance.ready).result(30)
    finally:
        over.set()
        looping.result(60)


@pytest.mark.parametrize("allow_reboot", [True, False])
def test_a_machine_that_comes_back_before_its_first_start_may_reboot_as_its_node_says(
    make: Callable[..., World], allow_reboot: bool
) -> None:
    world = make()
    lifecycle = Lifecycle("m", world.context, world.source, allow_reboot=allow_reboot)
    lifecycle.go_back(SAVED, "it is back", Meeting(1))
    assert lifecycle.instance is not None
    world.instances.append(lifecycle.instance)
    assert lifecycle.instance.allow_reboot is allow_reboot


def test_a_vmm_that_does_not_start_again_says_why(make: Callable[..., World]) -> None:
    world = make()
    instance = restarting(world)

    def end(action: PowerAction) -> None:
        world.guest.refuses_to_start = [TimeoutError("no descriptors")]
        world.guest.vmms[0].end(0, expected=True)

    world.guest.on_power = end
    with pytest.raises(MachineError, match="could not be started: no descriptors"):
        instance.reboot(30)


def test_what_is_to_be_done_once_is_done_in_a_guest_that_resets_before(
    make: Callable[..., World],
) -> None:
    world, prepared = make(), []
    world.context = replace(world.context, prepare=prepared.append)
    world.guest.unit_active = False
    instance = world.start(allow_reboot=True)
    vmm = world.guest.await_vmm()
    with world.guest.changed:
        assert world.guest.changed.wait_for(
            lambda: world.guest.channels and world.guest.channels[0].sessions, 30
        )
    vmm.reset()
    world.guest.set(unit_active=True)
    waiting(instance.ready).result(60)
    assert len(prepared) == 1
    vmm.reset()
    waiting(instance.ready).result(60)
    assert len(prepared) == 1


def test_nothing_is_done_again_in_a_clone_that_is_reset(make: Callable[..., World]) -> None:
    world, prepared = make(saved=SAVED), []
    world.context = replace(world.context, prepare=prepared.append)
    instance = world.start(allow_reboot=True)
    instance.ready()
    world.guest.vmms[0].reset()
    waiting(instance.ready).result(60)
    assert prepared == []


def restarting(world: World, *, allow_reboot: bool = True) -> Instance:
    """An instance whose VMM ends where its guest is reset."""
    world.context = replace(world.context, reset_ends_vmm=True)
    instance = world.start(allow_reboot=allow_reboot)
    instance.ready()
    return instance


@pytest.mark.parametrize("kind", ["serial", "vsock"])
@pytest.mark.parametrize("source", [{}, {"saved": SAVED}])
def test_a_guest_whose_reset_ends_its_vmm_boots_in_a_new_one(
    make: Callable[..., World], kind: str, source: dict[str, Any]
) -> None:
    world = make(**source)
    world.guest.set(kind=kind)
    instance = restarting(world)
    world.guest.vmms[0].end(0, expected=True)
    assert world.guest.await_vmm(2) is cast("object", instance.vmm)
    waiting(instance.ready).result(60)
    assert world.guest.started_from[1:] == [None]
    assert world.guest.channels[0].sessions == 2
    assert [each.text for each in world.told].count("the guest reboots") == 1
    assert (instance.death, world.fatal) == (None, [])


def test_what_is_under_way_is_told_that_the_machine_reboots(make: Callable[..., World]) -> None:
    """Whoever meets the end of the connection before the end of the VMM has been heard."""
    world = make()
    instance = restarting(world)
    lost = ChannelError("m", "the connection ended")
    told = waiting(lambda: instance.explain(lost))
    world.guest.vmms[0].end(0, expected=True)
    assert str(told.result(60)) == "m: the machine reboots"
    waiting(instance.ready).result(60)


def test_a_guest_that_says_that_it_powers_off_does_not_boot_again(
    make: Callable[..., World],
) -> None:
    world = make()
    instance = restarting(world)
    world.guest.vmms[0].say("attest-stage: power off")
    world.guest.vmms[0].end(0, expected=True)
    assert instance.death is None
    assert (instance.ended, len(world.guest.vmms)) == (True, 1)


@pytest.mark.parametrize("panic", [True, False])
def test_a_guest_that_dies_does_not_boot_again(make: Callable[..., World], panic: bool) -> None:
    world = make()
    instance = restarting(world)
    if panic:
        world.guest.vmms[0].say("[    1.000000] Kernel panic - not syncing: test")
    world.guest.vmms[0].end(0 if panic else 1)
    assert instance.death is not None
    assert (instance.ended, len(world.guest.vmms)) == (True, 1)


def test_a_guest_that_may_not_reboot_by_itself_ends(make: Callable[..., World]) -> None:
    world = make()
    instance = restarting(world, allow_reboot=False)
    world.guest.vmms[0].end(0, expected=True)
    assert instance.death is None
    assert (instance.ended, len(world.guest.vmms)) == (True, 1)


@pytest.mark.parametrize("allow_reboot", [True, False])
def test_a_guest_that_is_told_to_reboot_may(make: Callable[..., World], allow_reboot: bool) -> None:
    world = make()
    instance = restarting(world, allow_reboot=allow_reboot)
    world.guest.on_power = lambda _: world.guest.vmms[0].end(0, expected=True)
    instance.reboot(30)
    assert len(world.guest.vmms) == 2
    world.guest.vmms[1].end(0, expected=True)  # that one was not told to
    if allow_reboot:
        world.guest.await_vmm(3)
        waiting(instance.ready).result(60)
    else:
        assert instance.death is None
        assert instance.ended


def test_a_guest_that_its_vmm_has_stopped_ends_the_run(make: Callable[..., World]) -> None:
    world = make()
    instance = world.start()
    instance.ready()
    event = {"device": "overlay", "action": "stop", "nospace": True, "reason": "No space left"}
    world.guest.vmms[0].on_event("BLOCK_IO_ERROR", {**event, "action": "report"})
    world.guest.vmms[0].on_event("BLOCK_IO_ERROR", event)
    world.guest.vmms[0].on_event("BLOCK_IO_ERROR", {**event, "nospace": False})
    instance.kill()
    full, failed = (str(error).partition("\n")[0] for error in world.fatal)
    assert full == (
        "m: it stands still: the host's disk is full, so its disk overlay cannot be written"
    )
    assert failed == "m: it stands still: its disk overlay failed on the host: No space left"


def test_who_waits_for_a_guest_that_its_vmm_has_stopped_is_told(make: Callable[..., World]) -> None:
    world = make()
    world.guest.unit_active = False
    instance = world.start()
    waiter = waiting(instance.ready)
    vmm = world.guest.await_vmm()
    _ = instance.vmm
    vmm.on_event("BLOCK_IO_ERROR", {"device": "overlay", "action": "stop", "nospace": True})
    with pytest.raises(MachineError, match="the host's disk is full"):
        waiter.result(60)
    assert not instance.ended


def test_what_is_under_way_in_a_guest_that_its_vmm_has_stopped_fails(
    make: Callable[..., World],
) -> None:
    world = make()
    instance = world.start()
    instance.ready()
    event = {"device": "overlay", "action": "stop", "nospace": True}
    world.guest.vmms[0].on_event("BLOCK_IO_ERROR", event)
    (channel,) = world.guest.channels
    assert "the host's disk is full" in channel.ended


# Ends


def test_an_end_that_was_wanted_and_did_not_come_hides_no_later_death(
    make: Callable[..., World],
) -> None:
    world = make()
    instance = world.start()
    instance.ready()
    instance.want_end()
    instance.retract_end()
    world.guest.vmms[0].end(1)
    assert instance.death is not None
    instance.kill()
    assert world.fatal == [instance.death]


def test_an_accepted_death_is_none(make: Callable[..., World]) -> None:
    world = make()
    instance = world.start()
    instance.ready()
    world.guest.vmms[0].end(1)
    instance.accept_death()
    assert instance.death is None


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("saved", [None, SAVED])
def test_who_waits_for_one_that_is_ended_is_told(
    make: Callable[..., World], saved: Saved | None, answers: bool
) -> None:
    world = make(saved=saved)
    world.guest.set(answers=answers, unit_active=False)
    instance = world.start()
    if saved and answers:
        instance.kill()
        return
    world.guest.await_vmm()
    ready = waiting(instance.ready)
    instance.kill()
    with pytest.raises(MachineError):
        ready.result(60)
    assert world.fatal == []
    instance.kill()  # a second time does nothing


def test_one_that_looks_for_its_source_can_be_ended(make: Callable[..., World]) -> None:
    from attest.support.cancellation import cancellable

    world = make()
    stop = threading.Event()

    class Slow(FakeSource):
        def find(self) -> Saved | None:
            with cancellable(stop.set):
                stop.wait()
            return None

    world.source = Slow()
    instance = world.start()
    instance.kill()
    assert world.guest.vmms == []
    assert world.fatal == []
