"""The states of an instance: where it is between its start and its end."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from attest.errors import AttestError

__all__ = ["DEFAULT_LIMITS", "STAGES", "Limits", "Outcome", "Phase", "Stage", "StartKind", "State"]


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
        return STAGES.index(self) >= STAGES.index(other)


STAGES: Final = tuple(Stage)
"""In the order in which a machine reaches them."""


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
    STANDBY = "standby"
    """It has come up ahead of its machine's start, and waits for that, paused, on no network."""
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
    TEMPLATE = "template"
    """It boots, is saved when it is ready, and then given an identity as its clones are."""
    CLONE = "clone"
    """From a snapshot of a machine of its shape, which is then given another identity."""
    RETURN = "return"
    """From an earlier moment of its own machine; it cannot boot instead."""


class Limits(Struct, frozen=True):
    """How long each step of an instance may take, in seconds.

    Attributes:
        trial: In which a clone must answer; it takes a tenth of a second, and on a busy host with
            many a few.
        probation: After a clone's first answer, in which its death is blamed on the snapshot, where
            it is not the test's doing.
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
        since: When this start began, in seconds of the monotonic clock; a reset before it is ready
            begins none.
        answered: When its agent first answered as a clone's, in the same seconds.
        introduced: Its agent has been told who it is.
        used: Somebody has had its channel.
        served: It has done something that the test wanted.
        ahead: It comes up ahead of its machine's start, of which nobody is to notice anything.
        joins: It began so, and has not joined the others yet.
        ending: Its end is wanted: it is no failure.
        killed: It is to end as soon as its VMM has been started.
        may_boot: Where the snapshot is of no use, it boots.
        rebooting: It has been told to reboot.
        powering_off: It has said that it powers itself off.
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
    served: bool = False
    ahead: bool = False
    joins: bool = False
    ending: bool = False
    killed: bool = False
    may_boot: bool = False
    rebooting: bool = False
    powering_off: bool = False
    panic: str = ""
    resets: int = 0
    outcome: Outcome | None = None

    @property
    def boots(self) -> bool:
        """Whether its guest boots, and does not go on from what was saved."""
        return self.kind in (StartKind.BOOT, StartKind.TEMPLATE)

    @property
    def up(self) -> bool:
        """Whether its channel can be used."""
        return self.phase in (Phase.PROBATION, Phase.READY)

    @property
    def settled(self) -> bool:
        """Whether it is ready, or never will be: waiting for that is over."""
        return self.up or self.phase in (Phase.FAILED, Phase.OFF)

    @property
    def apart(self) -> bool:
        """Whether it is on no network yet, which is not for the test to change.

        It is on its way to being saved, where what is done to it would be saved, too; or it joins
        the others after it has come up ahead.
        """
        is_template = self.kind is StartKind.TEMPLATE and not self.introduced
        return self.phase is Phase.COMING_UP and (is_template or self.joins)

    @property
    def launched(self) -> bool:
        """Whether its VMM is one that it keeps, or there will be none."""
        return self.phase not in (Phase.PENDING, Phase.STARTING, Phase.ON_TRIAL)
