"""What the machines have logged that a failure is about, added to it as a note."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Final

from attest.events import EventLog, Kind
from attest.machine.guest_logs import fetch_logs
from attest.machine.lifecycle import Lifecycle
from attest.support.concurrency import call_in_thread
from attest.support.excerpt import short_line
from attest.support.text import plain_text

__all__ = ["add_logs"]

_LIMIT: Final = 3.0
"""Seconds in which a guest has told what it has logged; one that has not is left alone."""

_LINES: Final = 20
"""Lines of the logs that are shown in all."""

_MACHINES: Final = 4
"""Machines of which they are shown."""


def add_logs(
    failure: BaseException, machines: Iterable[Lifecycle], directory: Path, events: EventLog
) -> None:
    """Save the logs of the machines that answer, and note the last lines of those it is about.

    It takes 3 s at most, and raises nothing: it must not hide the failure.

    Args:
        failure: What a test has failed with.
        machines: The machines of the test.
        directory: Where the logs go.
        events: What happened in the test; lines from before its beginning are not noted.
    """
    began = time.time() - events.started
    answering = {each.name: each.answering() for each in machines}
    fetched = {
        name: call_in_thread(
            partial(fetch_logs, name, channel, directory, began + 1, _LIMIT), "logs"
        )
        for name, channel in answering.items()
        if channel is not None
    }
    if not fetched:
        return
    with events.span(Kind.ACTION, "save the machines' journals and kernel logs"):
        wait(fetched.values(), _LIMIT)
    told = {name: _told(each) for name, each in fetched.items()}
    concerned = list(dict.fromkeys(_machines_of(failure))) if len(answering) > 1 else list(told)
    for note in _notes(told, concerned):
        failure.add_note(note)
    if saved := [name for name, logs in told.items() if logs is not None]:
        failure.add_note(f"journals and kernel logs of {', '.join(saved)}: {directory}")


def _told(fetched: Future[tuple[str, list[str]]]) -> tuple[str, list[str]] | None:
    """What was found; None where the guest did not answer in time, or it could not be written."""
    return None if not fetched.done() or fetched.exception() else fetched.result()


def _machines_of(failure: BaseException) -> Iterator[str]:
    """The machines that a failure is about, and what it came of."""
    seen: list[BaseException] = []
    coming: list[BaseException | None] = [failure]
    while coming:
        error = coming.pop(0)
        if error is None or error in seen:
            continue
        seen.append(error)
        if isinstance(machine := getattr(error, "machine", None), str):
            yield machine
        coming += [error.__cause__, error.__context__, *getattr(error, "others", ())]
        coming += error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _notes(told: dict[str, tuple[str, list[str]] | None], concerned: list[str]) -> Iterator[str]:
    shown = [name for name in concerned if told.get(name)][:_MACHINES]
    for name in shown:
        log, lines = told[name] or ("", [])
        if not lines:
            continue
        last = [short_line(plain_text(line)) for line in lines[-_LINES // len(shown) :]]
        more = [f"[… {len(lines) - len(last):,} lines before …]"] if len(lines) > len(last) else []
        quoted = [f"  | {line}" for line in [*more, *last]]
        yield "\n".join([f"  {log} of {name} since the test began:", *quoted])
