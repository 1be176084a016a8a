"""Commands that have ended: what a test gets of them, and the error of one that failed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from attest.errors import CommandFailed
from attest.guest.channel import Completed as GuestCompleted
from attest.support.excerpt import excerpt
from attest.support.text import is_part, last_lines

__all__ = ["Completed", "command_failed", "shown_command", "text_of", "verdict"]

_COMMAND: Final = 1000
"""Characters of a command that an error shows."""

_FILES: Final = 10
"""Files with whole outputs that are kept of a machine."""

_HELD: Final = "let what goes on in the background write elsewhere: `command >/dev/null &`"


class Completed(msgspec.Struct, frozen=True):
    """A command that has ended, as `Machine.run` returns it.

    Attributes:
        status: Exit code; 128 + N after signal N.
        stdout: What it printed. Bytes that are no UTF-8 are replaced by U+FFFD.
        stderr: What it printed on standard error, likewise. Empty where that goes to the machine's
            console, which is so with the backdoor shell of a NixOS guest.
    """

    status: int
    stdout: str
    stderr: str


def text_of(output: bytes) -> str:
    """What a command printed, as text; bytes that are no UTF-8 are replaced by U+FFFD."""
    return output.decode(errors="replace")


def shown_command(command: str) -> str:
    """A command as errors show it: commands can be whole scripts."""
    return excerpt(command, _COMMAND)


def verdict(ended: GuestCompleted) -> str:
    """How a command ended, for the message of an error."""
    limit = " (time limit)" if ended.timed_out else ""
    held = f": {ended.held}" if ended.held else ""
    return f"exit code {ended.status}{limit}{held}"


def command_failed(
    machine: str,
    command: str,
    ended: GuestCompleted,
    expected: str,
    console: Mapping[str, Sequence[str]],
    directory: Path | None = None,
) -> CommandFailed:
    """The error of a command that ended otherwise than the test required.

    Args:
        machine: The machine's name.
        command: The command as the test gave it.
        ended: How it ended.
        expected: What the test required, such as ``"to succeed"``.
        console: The machine's last console lines, as evidence.
        directory: Where a file gets all of it, where the error shows only a part.
    """
    stdout, stderr = text_of(ended.stdout), text_of(ended.stderr)
    shown = (shown_command(command), last_lines(stdout), last_lines(stderr))
    is_cut = len(command) > _COMMAND or any(is_part(lines) for lines in shown[1:])
    return CommandFailed(
        machine, command, ended.status, stdout, stderr,
        message=f"command `{shown[0]}` was required {expected}: {verdict(ended)}",
        evidence={"stdout": shown[1], "stderr": shown[2], **console},
        log=_written(directory, machine, command, ended) if is_cut and directory else "",
        hint=_HELD if ended.held else "",
    )  # fmt: skip


def _written(directory: Path, machine: str, command: str, ended: GuestCompleted) -> str:
    """The path of a new file with a command and all that it has printed; empty without one.

    A test that tries again and again must not fill the disk, so the oldest files go.
    """
    head, middle, end = f"$ {command}\n[{verdict(ended)}]\nstdout:\n", "\nstderr:\n", "\n"
    try:
        path = _new_file(directory, f"command-{machine}")
        parts = [head.encode(), ended.stdout, middle.encode(), ended.stderr, end.encode()]
        path.write_bytes(b"".join(parts))
    except OSError:  # the disk is full, say: the error is what counts
        return ""
    return str(path)


def _new_file(directory: Path, stem: str) -> Path:
    pattern = re.compile(rf"{re.escape(stem)}-(\d+)\.log")
    found = (pattern.fullmatch(each.name) for each in directory.iterdir())
    numbers = sorted(int(match[1]) for match in found if match)
    for old in numbers[: -_FILES + 1]:
        (directory / f"{stem}-{old}.log").unlink(missing_ok=True)
    for number in itertools.count(numbers[-1] + 1 if numbers else 1):
        path = directory / f"{stem}-{number}.log"
        with suppress(FileExistsError):  # another thread's
            path.touch(exist_ok=False)
            return path
    raise AssertionError("numbers do not end")
