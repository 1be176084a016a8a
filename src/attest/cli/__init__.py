"""The command `attest`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from attest import __version__

__all__ = ["importing", "main"]


def main() -> None:
    """Run the command and exit; `attest.errors` has the exit codes."""
    if sys.argv[1:] == ["--version"]:  # as click would say it, which takes three times as long
        print(f"attest, version {__version__}")
        return
    gc.disable()  # until `importing` the subcommand is done
    from attest.cli.command import run

    run()


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage meanwhile, and look for none among what is there by then.

    Modules are no garbage, but looking for some among them takes a tenth of the time of their
    imports.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
