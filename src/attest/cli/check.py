"""`attest check`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from attest.check.check import CHECKS
from attest.check.check import check as findings_of
from attest.check.subject import Subject
from attest.errors import UsageError
from attest.manifest import Manifest, check_names, load_manifest
from attest.support.validation import read_text, unreadable


@click.command()
@click.argument("test", metavar="MANIFEST|SCRIPT", type=click.Path(path_type=Path))
@click.option("--nodes", help="The machines of a script, as in a,b [default: machine].")
@click.option("--vlans", help="The networks of a script, as in 1,2 [default: 1].")
@click.option(
    "--skip", type=click.Choice(list(CHECKS)), multiple=True,
    help="Leave a check out, as skipTypeCheck and skipLint of NixOS's tests do.",
)  # fmt: skip
def check(test: Path, nodes: str | None, vlans: str | None, skip: Sequence[str]) -> None:
    """Check the types and names in a test's script, without running it.

    It is that of a MANIFEST (TOML or JSON), or a SCRIPT by itself (.py).

    \b
    Example: attest check examples/web/test.toml
    Example: attest check test.py --nodes server,client --vlans 1,2

    Exit code: 0 there are no errors, 1 there are, 2 bad input, 3 mypy or pyflakes is missing.
    """
    if test.suffix == ".py":
        subject = _bare(test, (nodes or "machine").split(","), _numbers(vlans or "1"))
    elif nodes is None and vlans is None:
        subject = of_manifest(load_manifest(test))
    else:
        raise UsageError("--nodes and --vlans are for a script by itself; a manifest has its own")
    sys.exit(1 if report(subject, skip) else 0)


def of_manifest(manifest: Manifest) -> Subject:
    """The script of a manifest.

    Raises:
        ManifestError: There is none, or it cannot be read.
    """
    text, filename = manifest.script_text()
    path = manifest.script_path()
    directory = path.parent if path else None
    return Subject(text, filename, list(manifest.nodes), manifest.all_vlans(), directory)


def report(subject: Subject, skip: Sequence[str] = ()) -> int:
    """Check a script, print what is wrong, and return how many errors there are."""
    findings = findings_of(subject, skip)
    for finding in findings:
        for line in finding.lines(subject.filename):
            click.echo(line)
    counts = Counter(finding.severity for finding in findings)
    told = _counted(counts["error"], "error")
    if counts["warning"]:
        told += f", {_counted(counts['warning'], 'warning')}"
    click.echo(f"{subject.filename}: {told}", err=True)
    return counts["error"]


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'s' * (count != 1)}"


def _bare(path: Path, machines: list[str], vlans: list[int]) -> Subject:
    check_names(machines, source="--nodes")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {unreadable(error)}") from None
    return Subject(text, str(path), machines, vlans, path.parent)


def _numbers(vlans: str) -> list[int]:
    numbers = vlans.split(",")
    for number in numbers:
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 254):
            raise UsageError(f"--vlans: expected numbers from 1 to 254, as in 1,2; found {vlans!r}")
    return [int(number) for number in numbers]
