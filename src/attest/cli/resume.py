"""`attest resume`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from attest.cluster.archive import Kept, find, read
from attest.cluster.cluster import Cluster
from attest.errors import AttestError, UsageError
from attest.events import EventLog, Kind
from attest.guest.terminal import interact
from attest.report.activity import Doing
from attest.report.live import view
from attest.support.run_dirs import held


@click.command()
@click.argument("run", required=False)
@click.argument("machine", required=False)
def resume(run: str | None, machine: str | None) -> None:
    """Open shells in the machines that a failed test has left, running as they were.

    RUN is the run's directory or name, or the beginning of its name; by default the last run whose
    machines were kept. With a MACHINE, its shell is all. Ctrl-C goes to the guest; leave a shell
    with Ctrl-D or `exit`. What was kept stays as it is, and can be resumed again.

    \b
    Example: attest resume web
    """
    if not sys.stdin.isatty():
        raise UsageError("attest resume needs a terminal", hint="use `attest run` in scripts")
    place = find(run)
    with held(place.parent):
        _resume(place, machine)


def _resume(place: Path, machine: str | None) -> None:
    kept = read(place)
    running = list(kept.saved())
    if machine is not None:
        _require(kept, machine)
    events = EventLog()
    with Cluster(
        kept.manifest, accelerator=kept.accelerator, cold=True, kept=kept, events=events
    ) as cluster:
        with (
            view(events, Doing(events, running), verbose=False),
            events.span(Kind.ACTION, "resume"),
        ):
            cluster.go_back(kept.saved(), "the failure")
        if machine or len(running) == 1:
            sys.exit(interact(cluster[machine or running[0]]))
        _prompt(cluster, kept)


def _require(kept: Kept, name: str) -> None:
    if name not in kept.machines:
        known = ", ".join(kept.machines)
        raise UsageError(f"no machine is called {name!r}; there are: {known}")
    if why := kept.machines[name].absence:
        raise UsageError(f"{name} was not running when the test failed: {why}")


def _prompt(cluster: Cluster, kept: Kept) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` then edits lines

    _list(cluster, kept)
    while True:
        try:
            name = input("machine: ").strip()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            continue
        if name in cluster.machines:
            _open(cluster, kept, name)
        elif name == "exit":
            return
        else:
            _list(cluster, kept)


def _open(cluster: Cluster, kept: Kept, name: str) -> None:
    if why := _absence(cluster, kept, name):
        click.echo(f"{name} does not run: {why}")
        return
    try:
        interact(cluster[name])
    except AttestError as error:  # it has ended meanwhile, say
        click.echo(f"attest: {error}", err=True)


def _list(cluster: Cluster, kept: Kept) -> None:
    for name in cluster.machines:
        click.echo(f"  {name:20} {_absence(cluster, kept, name) or 'running'}")
    click.echo("The name of a machine opens a shell in it; `exit` or Ctrl-D ends them all.")


def _absence(cluster: Cluster, kept: Kept, name: str) -> str:
    return kept.machines[name].absence or cluster[name].absence
