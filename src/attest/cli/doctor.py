"""`attest doctor`."""

from __future__ import annotations

import sys
from typing import Final

import click

from attest.errors import HostError
from attest.host.capability_table import table
from attest.host.checks import CHECKS, Finding, Level

_COLOURS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


@click.command()
@click.option("--vmms", is_flag=True, help="Say instead what each VMM can do, and why not.")
def doctor(vmms: bool) -> None:
    """Check whether this host can run tests, and say what to do.

    Exit code 0: machines run here. 3: they do not.

    \b
    Example: attest doctor
    """
    if vmms:
        for line in table():
            click.echo(line)
        return
    levels = [_report(check()) for check in CHECKS]
    click.echo("\nattest doctor --vmms says what each VMM can do.")
    if Level.PROBLEM in levels:
        sys.exit(HostError.exit_code)


def _report(finding: Finding) -> Level:
    level = click.style(f"{finding.level:<9}", fg=_COLOURS[finding.level])
    text = " ".join(finding.text.split())  # what a program printed may have several lines
    click.echo(f"{level}{finding.subject}: {text}")
    if finding.fix:
        click.echo(f"{'':9}fix: {finding.fix}")
    return finding.level
