"""Commands that have ended: what a test gets of them, and the error of one that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from attest.errors import CommandFailed
from attest.guest.channel import Completed as GuestCompleted
from attest.support.text import last_lines

__all__ = ["Completed", "command_failed", "text_of"]


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


def command_failed(
    machine: str,
    command: str,
    ended: GuestCompleted,
    expected: str,
    console: Mapping[str, Sequence[str]],
) -> CommandFailed:
    """The error of a command that ended otherwise than the test required.

    Args:
        machine: The machine's name.
        command: The command as the test gave it.
        ended: How it ended.
        expected: What the test required, such as ``"to succeed"``.
        console: The machine's last console lines, as evidence.
    """
    stdout, stderr = text_of(ended.stdout), text_of(ended.stderr)
    evidence = {"stdout": last_lines(stdout), "stderr": last_lines(stderr), **console}
    return CommandFailed(
        machine, command, ended.status, stdout, stderr, expected=expected, evidence=evidence
    )
