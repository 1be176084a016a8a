"""The help of every command: that it can be had, and that it reads as it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from attest.cli.command import _attest


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, each with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *path, name)


COMMANDS = dict(commands(_attest))
GROUPS = {path: each for path, each in COMMANDS.items() if isinstance(each, click.Group)}
every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def help_of(path: tuple[str, ...], option: str = "--help", columns: int = 80) -> str:
    result = CliRunner().invoke(_attest, [*path, option], terminal_width=columns)
    assert result.exit_code == 0, result.output
    return result.output


def test_subcommands_are_among_them() -> None:
    assert {(), ("run",), ("image", "build"), ("cache", "gc"), ("nix", "run")} <= set(COMMANDS)


@every_command
def test_both_options_show_it(path: tuple[str, ...]) -> None:
    assert help_of(path, "-h") == help_of(path, "--help")
    assert help_of(path).startswith("Usage: ")


@every_command
def test_what_is_for_click_is_not_shown(path: tuple[str, ...]) -> None:
    shown = help_of(path)
    assert r"\b" not in shown
    assert "\b" not in shown


@pytest.mark.parametrize("columns", [50, 80])
@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_subcommands_are_listed_with_whole_sentences(path: tuple[str, ...], columns: int) -> None:
    listing = help_of(path, columns=columns).partition("\nCommands:\n  ")[2]
    entries = [each.split(maxsplit=1) for each in re.split(r"\n  (?=\S)", listing)]
    assert [name for name, _ in entries] == GROUPS[path].list_commands(click.Context(GROUPS[path]))
    for _, sentence in entries:
        assert re.fullmatch(r"[A-Z].*[^.]\.\n?", sentence, re.DOTALL)
        assert "…" not in sentence


@every_command
def test_arguments_have_no_names_of_variables(path: tuple[str, ...]) -> None:
    usage = help_of(path).partition("\n\n")[0]
    assert not re.search(r"_(?!\w)", usage)


@every_command
def test_options_are_explained(path: tuple[str, ...]) -> None:
    options = [each for each in COMMANDS[path].params if isinstance(each, click.Option)]
    assert [each.name for each in options if not each.help] == []
