"""Looks at a systemd unit by `systemctl`, where no agent watches: over a shell, and of users."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

import msgspec

__all__ = ["FinishProbe", "HopelessError", "UnitProbe", "as_user"]

_STATE: Final[tuple[str, ...]] = (
    "LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus", "Job",
)  # fmt: skip

_HISTORY: Final[tuple[str, ...]] = (
    "InactiveExitTimestampMonotonic", "ConditionResult", "ConditionTimestampMonotonic",
    "TriggeredBy",
)  # fmt: skip

_NEVER: Final = {"not-found": "systemd knows no unit of that name", "masked": "it is masked"}
"""Why a unit will not start, by its LoadState."""

_SKIPPED: Final = "it was not started, as its conditions were not met"

_FINISHED: Final = ("39f53479d3a045ac8e11786248231fbf", "7ad2d189f7e94e70a38c781354912448")
"""What systemd's journal calls a unit's start (of a oneshot: its end) and its end, in success."""

_FAILED: Final = ("be02cf6855d2428ba40df7e9d022f03d", "d9b373ed55a64feb8242e02dbe79a49c")
"""The same of a start that failed, and of an end in failure."""

_NOT_STARTED: Final = "0e4284a0caca4bfc81c0bb6786972673"
"""The same of a start that its conditions forbade; older ones say that it has started, and have no
invocation of it."""


class HopelessError(Exception):
    """What is waited for cannot come any more; the text says why.

    Attributes:
        state: What is known of the subject.
    """

    def __init__(self, reason: str, state: dict[str, str]) -> None:
        super().__init__(reason)
        self.state = state


class UnitProbe:
    """Tells whether a unit has the state that is waited for, as the agent does.

    Args:
        unit: The unit's whole name.
        wanted: The ActiveState that is waited for.
        user: Whose it is; None: the system's.

    Attributes:
        command: Looks at the unit, for any shell of root's.
    """

    def __init__(self, unit: str, wanted: str, user: str | None = None) -> None:
        self.command = _look_at(unit, user, _STATE)
        self._wanted = wanted
        self._was_there = False

    def judge(self, output: str) -> tuple[bool, str]:
        """Whether it is so, and how the unit is.

        Args:
            output: What the command has printed.

        Raises:
            HopelessError: It cannot come any more.
        """
        look = _Look(output)
        if not look.known:
            return False, look.last_line
        self._was_there |= look.load != "not-found"
        if look.active == self._wanted and (look.active != "inactive" or self._is_over(look)):
            return True, look.active
        look.require_hope()
        if look.idle and look.load in _NEVER:
            raise HopelessError(_NEVER[look.load], look.state)
        if look.idle and look.active == "inactive" and self._wanted != "inactive":
            raise HopelessError(f"{look}, and no job is pending", look.state)
        return False, str(look)

    def _is_over(self, look: _Look) -> bool:
        """Of a name that no unit has, systemd says that it is inactive, too."""
        return self._was_there and not look.job


class FinishProbe:
    """Tells whether a unit has done its work, since the machine booted, with success.

    systemd forgets a unit that is over and that nothing refers to; then its journal knows.

    Args:
        unit: The unit's whole name.
        user: Whose it is; None: the system's.

    Attributes:
        command: Looks at the unit, for any shell of root's.
    """

    def __init__(self, unit: str, user: str | None = None) -> None:
        whose = shlex.quote(f"UNIT={unit}")
        if user is not None:
            whose = f"{shlex.quote(f'USER_UNIT={unit}')} _UID=$(id -u -- {shlex.quote(user)})"
        kinds = " ".join(f"MESSAGE_ID={each}" for each in (*_FINISHED, *_FAILED, _NOT_STARTED))
        journal = (
            "journalctl --sync; journalctl --boot --quiet --no-pager --lines=1 --output=json "
            f"--output-fields=MESSAGE_ID,INVOCATION_ID,USER_INVOCATION_ID {whose} {kinds}"
        )
        self.command = (
            f"all=$({_look_at(unit, user, _STATE + _HISTORY)}); printf '%s\\n' \"$all\"; "
            f'case $all in *ActiveState=inactive*) printf "Journal=%s\\n" "$({journal})";; esac'
        )

    def judge(self, output: str) -> tuple[bool, str]:
        """Whether it is so, and how the unit is; see `UnitProbe.judge`."""
        look = _Look(output)
        if not look.known:
            return False, look.last_line
        if look.active == "active" and look.state.get("SubState") == "exited":
            return True, "it has finished, and stays active"
        look.require_hope()
        if look.active != "inactive" or look.job:
            return False, str(look)
        return self._judge_past(look)

    def _judge_past(self, look: _Look) -> tuple[bool, str]:
        left, asked = look.moment("InactiveExit"), look.moment("Condition")
        told = _told(look.history.get("Journal", ""))
        if look.history.get("ConditionResult") == "no" and asked > left:
            raise HopelessError(_SKIPPED, look.state)
        if left:
            if look.state.get("Result") == "success":
                return True, "it has finished"
            raise HopelessError(f"it has failed ({look.failure})", look.state)
        if told in _FINISHED:
            return True, "it has finished"
        if told:
            raise HopelessError("it has failed" if told in _FAILED else _SKIPPED, look.state)
        if look.idle and look.load in _NEVER:
            raise HopelessError(_NEVER[look.load], look.state)
        if look.idle and not look.history.get("TriggeredBy"):
            raise HopelessError("it has not run, and no job is pending", look.state)
        return False, "it has not run"


class _Look:
    """What was seen of a unit."""

    def __init__(self, output: str) -> None:
        pairs = (line.partition("=") for line in output.splitlines())
        found = {key: value for key, _, value in pairs}
        self.state = {key: found[key] for key in _STATE if key in found and key != "Job"}
        self.history = found
        self.known = "ActiveState" in found
        self.active = found.get("ActiveState", "")
        self.load = found.get("LoadState", "")
        self.job = found.get("Job", "0") not in ("", "0")
        self.idle = "No jobs" in output
        self.last_line = "".join(output.splitlines()[-1:])

    def __str__(self) -> str:
        pending = ", with a job pending" if self.job else ""
        return f"it is {self.active} ({self.state.get('SubState')}){pending}"

    def require_hope(self) -> None:
        if self.active == "failed" and not self.job:
            raise HopelessError(f"it has failed ({self.failure})", self.state)

    def moment(self, event: str) -> int:
        """When it was last, in microseconds of the guest's uptime; 0 for never."""
        return int(self.history.get(f"{event}TimestampMonotonic") or 0)

    @property
    def failure(self) -> str:
        return _failure(self.state)


def as_user(command: str, user: str | None) -> str:
    """A command that asks the manager of a user, as that user; None is the system's."""
    if user is None:
        return command
    command = f"export XDG_RUNTIME_DIR=/run/user/$(id -u); {command}"
    return f"su -l {shlex.quote(user)} --shell /bin/sh -c {shlex.quote(command)}"


def _look_at(unit: str, user: str | None, properties: tuple[str, ...]) -> str:
    systemctl = "systemctl" if user is None else "systemctl --user"
    show = f"{systemctl} --no-pager show --property={','.join(properties)} {shlex.quote(unit)} 2>&1"
    # Whether there are jobs matters where it is inactive; then its own may have ended since it was
    # looked at.
    look = (
        f"state=$({show}); case $state in *ActiveState=inactive*) "
        f"{systemctl} --no-pager list-jobs; {show};; "
        '*) printf "%s\\n" "$state";; esac'
    )
    return as_user(look, user)


def _told(entry: str) -> str:
    """What an entry of the journal says of a unit, as its MESSAGE_ID; empty without an entry."""
    if not entry:
        return ""
    fields = msgspec.json.decode(entry, type=dict[str, str])
    kind = fields["MESSAGE_ID"]
    invoked = fields.get("INVOCATION_ID") or fields.get("USER_INVOCATION_ID")
    return kind if invoked or kind in _FAILED else _NOT_STARTED


def _failure(state: Mapping[str, str]) -> str:
    result, status = state.get("Result", ""), state.get("ExecMainStatus", "")
    counted = {"exit-code": f"exit code {status}", "signal": f"signal {status}"}
    return counted.get(result, result) if status else result
