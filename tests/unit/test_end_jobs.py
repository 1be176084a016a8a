"""What keeps a guest from leaving, from what it says."""

from __future__ import annotations

import pytest

from attest.machine.end_jobs import what_hangs

JOBS = """\
 1043 stuck.service       stop  running
 1100 poweroff.target     start waiting
 1101 var-lib.mount       stop  running
"""
MANY = "".join(f"{number} unit{number}.service stop running\n" for number in range(10))


class Guest:
    """A guest that answers, or whose console has told something."""

    def __init__(self, answer: str, *console: str) -> None:
        self.answer, self.console = answer, console

    def ask(self, command: str, timeout: float) -> str:
        return self.answer

    def console_lines(self, count: int) -> list[str]:
        return list(self.console)


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        (Guest(JOBS), "; systemd still waits for stuck.service (stop), var-lib.mount (stop)"),
        (Guest(JOBS, "Job other.service/stop running (2s / 10min)"), "; systemd still waits for"),
        (
            Guest("", *2 * ["[ **  ] Job stuck.service/stop running (2s / 10min)"]),
            "; systemd still waits for stuck.service (stop)",
        ),
        (
            Guest("", "[***   ] A stop job is running for Ignores everything (5s / 1min 30s)"),
            "; systemd still waits for Ignores everything (stop)",
        ),
        (Guest("sh: systemctl: not found"), ""),
        (Guest(""), ""),
    ],
)
def test_what_hangs(guest: Guest, said: str) -> None:
    hangs = what_hangs(guest)  # type: ignore[arg-type]
    assert hangs.startswith(said) if said else hangs == ""
    assert "other.service" not in hangs


def test_of_many_only_some_are_named() -> None:
    assert what_hangs(Guest(MANY)).endswith("unit7.service (stop) and 2 more")  # type: ignore[arg-type]
