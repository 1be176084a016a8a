"""Standard input, output and error, one of which the command may have been started without."""

from __future__ import annotations

import os
import select
import sys

__all__ = ["drop_output", "output_is_read", "take_standard_streams"]


def take_standard_streams() -> None:
    """Let ``/dev/null`` be each of them that is closed.

    Else the next files that are opened would have their numbers, and get what is written to them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def output_is_read() -> bool:
    """Whether standard output and error have their readers still, where they have any."""
    outputs = select.poll()
    for descriptor in (1, 2):
        outputs.register(descriptor, 0)  # tells of errors all the same
    return not outputs.poll(0)


def drop_output() -> None:
    """Write no more to standard output, whose reader has gone: what is buffered is lost."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
