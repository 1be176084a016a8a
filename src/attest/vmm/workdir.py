"""The directory in which one VMM works: its sockets, and the files that it is shown, by name.

A VMM writes the names of files into its snapshots. By names relative to a directory of its own,
each clone finds files of its own there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

__all__ = ["OpenWorkdir", "Workdir", "remove_at_once"]


class Workdir(Protocol):
    """A VMM's working directory.

    Attributes:
        path: Where it is on the host.
    """

    path: Path

    def show(self, name: str, file: Path, *, writable: bool = False) -> None:
        """Let the VMM have a file under a name, before it starts."""

    def command(self, program: Path, arguments: Sequence[str]) -> list[str]:
        """The command line that runs a program there."""

    def receive(self, directory: Path) -> AbstractContextManager[str]:
        """A name for a directory into which the VMM writes; see `OpenWorkdir.receive`."""

    def remove(self) -> None:
        """Remove it, with all that is left in it."""


class OpenWorkdir:
    """A working directory of a process that sees the host's files.

    Args:
        parent: Where it is made.
        prefix: What its name begins with.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).absolute()

    def show(self, name: str, file: Path, *, writable: bool = False) -> None:
        """Let the VMM have a file under a name, before it starts."""
        (self.path / name).symlink_to(file.absolute())

    def command(self, program: Path, arguments: Sequence[str]) -> list[str]:
        """The command line that runs a program there."""
        return ["env", f"--chdir={self.path}", str(program), *arguments]

    @contextmanager
    def receive(self, directory: Path) -> Iterator[str]:
        """The name of a directory into which the VMM writes.

        Args:
            directory: What it has written is there at the end.
        """
        link = self.path / "received"
        link.symlink_to(directory.absolute())
        try:
            yield link.name
        finally:
            link.unlink(missing_ok=True)  # the end of the VMM takes the directory away

    def remove(self) -> None:
        """Remove it, with all that is left in it."""
        remove_at_once(self.path)


def remove_at_once(directory: Path) -> None:
    """Remove a directory so that nothing can be made in it any more by its path.

    A VMM may end while the driver prepares something there, which would keep the directory.
    """
    removed = directory.with_name(f"{directory.name}.removed")
    with suppress(OSError):  # it is not there any more, or the disk is full
        directory.rename(removed)
    for each in (removed, directory):
        shutil.rmtree(each, ignore_errors=True)
