"""One line of text for an event: what the plain view prints and the live view scrolls by."""

from __future__ import annotations

from attest.events import Event, Kind
from attest.support.text import headline, plain_text

__all__ = ["describe", "output_lines", "title"]

_SPANS = {Kind.COMMAND: "$ ", Kind.WAIT: "", Kind.COPY: "", Kind.ACTION: "", Kind.CONDITION: ""}
_GROUPS = {Kind.SUBTEST: "subtest: ", Kind.GROUP: ""}


def describe(event: Event, *, verbose: bool) -> list[str]:
    """The lines for an event, without its time; none when it is not worth one.

    They hold no control sequences: a script may log what a guest said.
    """
    return [plain_text(line) for line in _lines(event, verbose)]


def title(event: Event) -> str:
    """What an action is called."""
    where = f"{event.machine}: " if event.machine else ""
    return plain_text(f"{where}{_SPANS.get(event.kind, '')}{headline(event.text)}")


def output_lines(event: Event) -> list[str]:
    """The lines for what a command has printed."""
    return [plain_text(f"{event.machine}:   {line}") for line in event.text.split("\n")]


def _lines(event: Event, verbose: bool) -> list[str]:
    where = f"{event.machine}: " if event.machine else ""
    if event.kind is Kind.CONDITION and "error" not in event.data and not verbose:
        return []
    if event.kind in _SPANS:
        return _span(event, where, verbose)
    if event.kind in _GROUPS:
        return _group(event, where)
    if event.kind is Kind.CONSOLE:
        return [f"{where}| {event.text}"]
    if event.kind is Kind.STAGE:
        return _stage(event, where, verbose)
    if event.kind in (Kind.ALARM, Kind.WARNING):
        return [f"{where}{event.kind}: {event.text}"]
    if event.kind is Kind.DEBUG:
        return [f"{where}{event.text}"] if verbose else []
    if event.kind in (Kind.LOG, Kind.HOST, Kind.IMAGE):
        return [f"{where}{event.text}"]
    return []


def _span(event: Event, where: str, verbose: bool) -> list[str]:
    if event.phase == "begin":
        return []
    if not event.phase:
        return [title(event)]
    lines = [f"{title(event)}  [{_outcome(event)}]"]
    if verbose:
        for stream in ("stdout", "stderr"):
            lines += [f"{where}  {line}" for line in event.data.get(stream, "").splitlines()]
    return lines


def _outcome(event: Event) -> str:
    duration = f"{event.data['duration']:.3f} s"
    if "error" in event.data:
        return f"failed, {duration}"
    status = event.data.get("status", 0)
    return f"exit code {status}, {duration}" if status else duration


def _group(event: Event, where: str) -> list[str]:
    name = f"{where}{_GROUPS[event.kind]}{event.text}"
    return [name if event.phase == "begin" else f"{name}  [{_outcome(event)}]"]


def _stage(event: Event, where: str, verbose: bool) -> list[str]:
    if event.text == "ready":
        return [f"{where}ready  [{event.data['seconds']:.3f} s]"]
    return [f"{where}{event.text}"] if verbose else []
