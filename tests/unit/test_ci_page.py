"""docs/ci.md: its jobs can be read, and use commands that there are."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml

from attest.cli.command import _attest

PAGE = (Path(__file__).parents[2] / "docs/ci.md").read_text()
BLOCKS = re.findall(r"```(?:yaml|console)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = {
    words for block in BLOCKS for words in re.findall(r"\battest ((?:cache |image )?[a-z]+)", block)
}


def test_it_has_jobs_of_both() -> None:
    github, gitlab = (yaml.safe_load(block) for block in BLOCKS if "vm-tests:" in block)
    names = [step.get("uses", "") for step in github["jobs"]["vm-tests"]["steps"]]
    assert {"actions/cache/restore@v4", "actions/cache/save@v4"} <= set(names)
    assert gitlab["vm-tests"]["cache"]["paths"] == ["images.zst"]


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_its_commands_are_there(words: str) -> None:
    command: click.Command | None = _attest
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
        assert command is not None, words
