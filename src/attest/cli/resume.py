"""`attest resume`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from attest.cluster.archive import Archive, find_archive, read_archive
from attest.cluster.cluster import Cluster
from attest.errors import AttestError, UsageError
from attest.events import EventLog, Kind
from attest.guest.terminal import interact
from attest.report.activity import Activities
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
    place = find_archive(run)
    with held(place.parent):
        _resume(place, machine)


def _resume(place: Path, machine: str | None) -> None:
    archive = read_archive(place)
    running = list(archive.saved())
    if machine is not None:
        _require(archive, machine)
    events = EventLog()
    with Cluster(
        archive.manifest, accelerator=archive.accelerator, cold=True, archive=archive, events=events
    ) as cluster:
        with (
            view(events, Activities(events, running), verbose=False),
            events.span(Kind.ACTION, "resume"),
        ):
            cluster.go_back(archive.saved(), "the failure")
        if machine or len(running) == 1:
            sys.exit(interact(cluster[machine or running[0]]))
        _prompt(cluster, archive)


def _require(archive: Archive, name: str) -> None:
    if name not in archive.machines:
        known = ", ".join(archive.machines)
        raise UsageError(f"no machine is called {name!r}; there are: {known}")
    if why := archive.machines[name].absence:
        raise UsageError(f"{name} was not running when the test failed: {why}")


def _prompt(cluster: Cluster, archive: Archive) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` then edits lines

    _list(cluster, archive)
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
            _open(cluster, archive, name)
        elif name == "exit":
            return
        else:
            _list(cluster, archive)


def _open(cluster: Cluster, archive: Archive, name: str) -> None:
    if why := _absence(cluster, archive, name):
        click.echo(f"{name} does not run: {why}")
        return
    try:
        interact(cluster[name])
    except AttestError as error:  # it has ended meanwhile, say
        click.echo(f"attest: {error}", err=True)


def _list(cluster: Cluster, archive: Archive) -> None:
    for name in cluster.machines:
        click.echo(f"  {name:20} {_absence(cluster, archive, name) or 'running'}")
    click.echo("The name of a machine opens a shell in it; `exit` or Ctrl-D ends them all.")


def _absence(cluster: Cluster, archive: Archive, name: str) -> str:
    return archive.machines[name].absence or cluster[name].absence
