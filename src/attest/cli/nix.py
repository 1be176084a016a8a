"""`attest nix`."""

from __future__ import annotations

from pathlib import Path

import click

from attest.cli.flake_tests import find_test
from attest.cli.group import Group
from attest.cli.run import run as run_manifest


@click.group(cls=Group)
def nix() -> None:
    """Run tests that Nix makes.

    \b
    Example: attest nix run .#checks.x86_64-linux.web
    """


@nix.command(context_settings={"ignore_unknown_options": True})
@click.argument("test", metavar="FLAKE#TEST")
@click.option(
    "--script", type=click.Path(path_type=Path),
    help="Run this script instead of the test's own.",
)  # fmt: skip
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def run(test: str, script: Path | None, options: tuple[str, ...]) -> None:
    """Build a test of a flake once, and run it outside of Nix's sandbox.

    It is evaluated again when a file of the flake has changed. A script that is given with --script
    may change without that. All other options are those of `attest run`.

    \b
    Example: attest nix run .#checks.x86_64-linux.web
    Example: attest nix run .#checks.x86_64-linux.web --script test.py -v
    """
    found = find_test(test, script)
    if found.remembered:
        click.echo("nothing of the flake has changed: the test is as it was built", err=True)
    run_manifest.main([str(found.manifest), *options], standalone_mode=False)
