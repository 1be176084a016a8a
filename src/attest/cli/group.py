"""A command of subcommands, as all of attest's are."""

from __future__ import annotations

import sys

import click

__all__ = ["Group"]


class Group(click.Group):
    """Lists its subcommands with whole sentences: click cuts what is longer than a line."""

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        """The subcommands' names, each with the first sentence of its help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        return [
            (name, command.get_short_help_str(limit=sys.maxsize))
            for name, command in commands
            if command is not None
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list; what is longer than a line goes on in the next."""
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries(ctx))
