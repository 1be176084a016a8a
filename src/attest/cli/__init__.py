"""The command `attest`."""

from __future__ import annotations

import gc

__all__ = ["main"]


def main() -> None:
    """Run the command and exit; `attest.errors` has the exit codes."""
    # Modules are no garbage, but looking for some among them takes a tenth of the time of their
    # imports. It begins when those of the subcommand are there.
    gc.disable()
    from attest.cli.command import run

    run()
