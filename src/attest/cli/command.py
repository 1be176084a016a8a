"""The command line: one short module for each subcommand, imported when it is used."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

import click

from attest import __version__
from attest.cli import importing
from attest.cli.group import Group
from attest.cli.standard_streams import drop_output, output_is_read, take_standard_streams
from attest.errors import AttestError, Terminated, host_error

__all__ = ["exit_codes", "run"]

_COMMANDS: Final = {
    "run": "Run a test.",
    "check": "Check a script without running it.",
    "resume": "Open shells in the machines that a failed test has left.",
    "shell": "Open a shell in a fresh machine.",
    "image": "Build and manage images.",
    "cache": "Manage the snapshots that machines start from.",
    "nix": "Run tests that Nix makes.",
    "doctor": "Check whether this host can run tests, and say what to do.",
    "schema": "Print the manifest's JSON schema.",
}


class _Lazy(Group):
    """Imports a subcommand's module only to run it: `--version` and `--help` stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        with importing():
            command = getattr(importlib.import_module(f"attest.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        return list(_COMMANDS.items())


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="attest")
def _attest() -> None:
    """VM integration tests that start like unit tests.

    \b
    Example: attest run examples/tiny/test.toml
    """


def run() -> None:
    """Run the command and exit; `attest.errors` has the exit codes."""
    with exit_codes():
        _attest.main(standalone_mode=False)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Tell the user of errors, and exit with their codes; SIGTERM ends all in order, as Ctrl-C."""
    take_standard_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        print("attest: interrupted", file=sys.stderr)
        sys.exit(130)
    except Terminated as terminated:
        print(f"attest: {terminated}", file=sys.stderr)
        raise
    except AttestError as error:
        _fail(error)
    except BrokenPipeError:
        if output_is_read():  # it is that of something else, such as a VMM
            raise
        drop_output()  # as with `attest image ls | head -1`
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if (lacking := host_error(error)) is None:
            raise
        _fail(lacking)


def _fail(error: AttestError) -> NoReturn:
    print(f"attest: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _terminate(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, lambda *_: None)  # a second one shall not cut short what the first began
    raise Terminated
