"""What `systemctl` and the journal say of a unit, and what is concluded from it."""

from __future__ import annotations

import pytest

from attest.guest.unit_probe import FinishProbe, HopelessError, UnitProbe

_NO_JOBS = "No jobs running.\n"


def shown(active: str, load: str = "loaded", **more: object) -> str:
    """What `systemctl show` prints."""
    properties = {
        "LoadState": load, "ActiveState": active, "SubState": f"sub-{active}", "Result": "success",
        "ExecMainStatus": 0, **more,
    }  # fmt: skip
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def journal(kind: str, invocation: str = "ab12") -> str:
    return f'Journal={{"__CURSOR":"s=1","MESSAGE_ID":"{kind}","INVOCATION_ID":"{invocation}"}}\n'


_STARTED = "39f53479d3a045ac8e11786248231fbf"
_SUCCESS = "7ad2d189f7e94e70a38c781354912448"
_FAILURE = "d9b373ed55a64feb8242e02dbe79a49c"
_RAN = {"InactiveExitTimestampMonotonic": 5}


@pytest.mark.parametrize(
    ("wanted", "output", "expected"),
    [
        ("active", shown("active"), (True, "active")),
        ("failed", shown("failed"), (True, "failed")),
        ("inactive", _NO_JOBS + shown("inactive"), (True, "inactive")),
        (
            "inactive",
            shown("inactive", Job=7),
            (False, "it is inactive (sub-inactive), with a job pending"),
        ),
        ("active", shown("inactive"), (False, "it is inactive (sub-inactive)")),
        (
            "active",
            shown("failed", Job=7),
            (False, "it is failed (sub-failed), with a job pending"),
        ),
        ("active", "su: warning\nFailed to connect to bus", (False, "Failed to connect to bus")),
        ("active", "", (False, "")),
    ],
)
def test_a_state(wanted: str, output: str, expected: tuple[bool, str]) -> None:
    assert UnitProbe("x.service", wanted).judge(output) == expected


@pytest.mark.parametrize(
    ("wanted", "output", "reason"),
    [
        (
            "active",
            shown("failed", Result="exit-code", ExecMainStatus=4),
            r"it has failed \(exit code 4\)",
        ),
        (
            "active",
            shown("failed", Result="signal", ExecMainStatus=9),
            r"it has failed \(signal 9\)",
        ),
        ("active", shown("failed", Result="timeout"), r"it has failed \(timeout\)"),
        ("active", _NO_JOBS + shown("inactive", "masked"), "it is masked"),
        ("active", _NO_JOBS + shown("inactive", "not-found"), "systemd knows no unit"),
        ("inactive", _NO_JOBS + shown("inactive", "not-found"), "systemd knows no unit"),
        ("failed", _NO_JOBS + shown("inactive"), "and no job is pending"),
    ],
)
def test_a_state_that_cannot_come(wanted: str, output: str, reason: str) -> None:
    with pytest.raises(HopelessError, match=reason):
        UnitProbe("x.service", wanted).judge(output)


def test_a_unit_that_is_forgotten_once_it_was_there_is_inactive() -> None:
    probe = UnitProbe("x.service", "inactive")
    assert not probe.judge(shown("active"))[0]
    assert probe.judge(_NO_JOBS + shown("inactive", "not-found"))[0]


@pytest.mark.parametrize(
    ("output", "so"),
    [
        (_NO_JOBS + shown("inactive", **_RAN), True),
        (shown("active", SubState="exited"), True),
        (shown("active", SubState="running"), False),
        (shown("activating", **_RAN), False),
        (shown("inactive", Job=3, **_RAN), False),
        (_NO_JOBS + shown("inactive") + journal(_STARTED), True),
        (_NO_JOBS + shown("inactive", "not-found") + journal(_SUCCESS), True),
        (shown("inactive"), False),
        (_NO_JOBS + shown("inactive", TriggeredBy="x.timer"), False),
        ("Failed to connect to bus", False),
    ],
)
def test_an_end(output: str, so: bool) -> None:
    assert FinishProbe("x.service").judge(output)[0] == so


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (shown("failed", Result="exit-code", ExecMainStatus=4), r"failed \(exit code 4\)"),
        (shown("inactive", Result="timeout", **_RAN), r"failed \(timeout\)"),
        (_NO_JOBS + shown("inactive") + journal(_FAILURE), "it has failed"),
        (_NO_JOBS + shown("inactive"), "it has not run, and no job is pending"),
        (_NO_JOBS + shown("inactive", "not-found"), "systemd knows no unit"),
        (_NO_JOBS + shown("inactive", "masked"), "it is masked"),
        (shown("inactive") + journal(_STARTED, ""), "its conditions were not met"),
        (
            shown("inactive", ConditionResult="no", ConditionTimestampMonotonic=9, **_RAN),
            "its conditions were not met",
        ),
    ],
)
def test_an_end_that_cannot_come(output: str, reason: str) -> None:
    with pytest.raises(HopelessError, match=reason):
        FinishProbe("x.service").judge(output)


def test_users_are_asked_by_themselves_and_the_journal_by_root() -> None:
    command = FinishProbe("x.service", "al ice").command
    assert "su -l 'al ice'" in command
    assert command.index("systemctl --user") < command.index("journalctl --sync")
    assert "USER_UNIT=x.service _UID=$(id -u -- 'al ice')" in command
