"""What keeps a guest from leaving: the jobs that its systemd has begun and not finished."""

from __future__ import annotations

import re
from typing import Final

from attest.machine.instance import Instance

__all__ = ["what_hangs"]

_JOBS: Final = "systemctl list-jobs --no-legend --no-pager --plain"
_ASKED: Final = 10.0
"""Seconds in which a guest that is alive says which jobs it has."""

_LISTED: Final = 8
"""Units that are named; more are counted."""

_CONSOLE_LINES: Final = 20
_SAID: Final = (
    re.compile(r"Job (?P<unit>\S+)/(?P<kind>start|stop) running \("),
    re.compile(r"A (?P<kind>start|stop) job is running for (?P<unit>.+?) \("),
)
"""What systemd shows on the console of a job that takes its time."""


def what_hangs(instance: Instance) -> str:
    """The end of a sentence that says so; empty where nothing is known.

    The agent is asked, which answers until the very end; where it does not, the console may have
    said it.
    """
    found = _jobs(instance.ask(_JOBS, _ASKED)) or _told(instance.console_lines(_CONSOLE_LINES))
    if not found:
        return ""
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"; systemd still waits for {', '.join(found[:_LISTED])}{more}"


def _jobs(text: str) -> list[str]:
    """Of lines of number, unit, kind and state, the units whose job runs."""
    jobs = [line.split() for line in text.splitlines()]
    return [f"{job[1]} ({job[2]})" for job in jobs if len(job) == 4 and job[3] == "running"]


def _told(lines: list[str]) -> list[str]:
    """The units whose jobs the console has told of, each once."""
    found = [match for line in lines for each in _SAID for match in each.finditer(line)]
    return list(dict.fromkeys(f"{match['unit']} ({match['kind']})" for match in found))
