"""What can happen to an instance, and what can be to do for it then."""

from __future__ import annotations

from msgspec import Struct

from attest.errors import AttestError, MachineError
from attest.machine.instance_states import Stage
from attest.vmm.base import Saved, VmmExit

__all__ = [
    "Event",
    "WorkerEvent",
    "Served",
    "SourceFound",
    "VmmStarted",
    "AgentAnswered",
    "Introduced",
    "CameUp",
    "CameUpAhead",
    "StartFailed",
    "VmmEvent",
    "VmmExited",
    "GuestReset",
    "PowerOffBegun",
    "StoodStill",
    "ConsoleSpoke",
    "Panicked",
    "BeginAnew",
    "Called",
    "Used",
    "RebootWanted",
    "EndWanted",
    "EndRetracted",
    "EndAccepted",
    "KillWanted",
    "Effect",
    "FindSource",
    "StartVmm",
    "TryClone",
    "ComeUp",
    "Join",
    "Interrupt",
    "KillVmm",
    "Discard",
    "GiveUpTemplate",
    "ReportSpoilt",
    "TellStage",
    "TellReset",
    "TellExit",
    "TellFatal",
]

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
        is_template: It is to be saved when it has booted.
    """

    at: float
    saved: Saved | None
    may_boot: bool
    is_template: bool = False


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


class CameUpAhead(WorkerEvent, frozen=True):
    """It has come up as one does that comes up ahead: it is on no network yet."""


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
        resets: A guest that is reset ends this VMM, and may be: it is to boot again then.
    """

    at: float
    exit: VmmExit
    error: MachineError
    resets: bool = False


class GuestReset(VmmEvent, frozen=True):
    """The guest has been reset, and boots; its VMM goes on.

    Attributes:
        at: When.
    """

    at: float


class PowerOffBegun(VmmEvent, frozen=True):
    """The guest is about to power itself off, which looks like a reset where that ends the VMM."""


class StoodStill(VmmEvent, frozen=True):
    """The VMM has stopped its guest, which it cannot let go on.

    Attributes:
        error: Why.
    """

    error: MachineError


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


class Called(Event, frozen=True):
    """The machine is started for which it comes up, or has come up, ahead.

    Attributes:
        at: When.
    """

    at: float


class Used(Event, frozen=True):
    """Its channel has been handed to somebody: from now on its death is the test's concern."""


class Served(Event, frozen=True):
    """It has done what the test wanted, so it came to life."""


class RebootWanted(Event, frozen=True):
    """The guest has been told to reboot: if its VMM ends, it boots in a new one.

    Attributes:
        wanted: False: it did not reboot, and is not expected to any more.
    """

    wanted: bool


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


class FindSource(Effect, frozen=True):
    """Find out what it starts from."""


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


class Join(Effect, frozen=True):
    """Let it go on, on its networks, and tell its agent what has changed while it stood by.

    Attributes:
        attempt: For which.
    """

    attempt: int


class Interrupt(Effect, frozen=True):
    """End what is under way on its channel since before an attempt.

    Attributes:
        reason: What whoever waits there is told.
        before: That attempt. What its own greeting has begun goes on, however late this comes.
    """

    reason: str
    before: int


class KillVmm(Effect, frozen=True):
    """End its VMM; its channel is left to whoever has it."""


class Discard(Effect, frozen=True):
    """End its VMM and its channel, of which nobody has heard yet."""


class GiveUpTemplate(Effect, frozen=True):
    """Tell who wanted to save it that it will not be saved, or not again."""


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
