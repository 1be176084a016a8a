"""`attest schema`."""

from __future__ import annotations

import json

import click

from attest.manifest import json_schema


@click.command()
def schema() -> None:
    """Print the manifest's JSON schema, for editors and generators.

    \b
    Example: attest schema > attest.schema.json
    """
    click.echo(json.dumps(json_schema(), indent=2))
