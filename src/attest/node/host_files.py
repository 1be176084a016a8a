"""The files of this host that a node has in its machine before the test begins."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from attest.errors import ManifestError
from attest.guest.channel import Channel
from attest.support.validation import unreadable

__all__ = ["HostFiles"]

_LETTERS: Final = 32
"""Hexadecimal digits of a digest that tell contents apart: 128 bits."""


class HostFiles:
    """Files and directories that are copied into a machine.

    Args:
        machine: Its name, for errors.
        declared: What the manifest says: paths in the machine, and those on this host.
        relative_to: What paths on this host are relative to.
    """

    def __init__(self, machine: str, declared: Mapping[str, str], relative_to: Path) -> None:
        self._machine = machine
        # A directory is there before what goes into it.
        self._sources = {target: relative_to / declared[target] for target in sorted(declared)}

    @property
    def sources(self) -> dict[str, str]:
        """The absolute path on this host of what each path in the machine gets."""
        return {target: str(source.absolute()) for target, source in self._sources.items()}

    def contents(self) -> tuple[str, ...]:
        """What each is, so described that a change is another description.

        It is read for that: paths, modes, links, and contents; owners where they are copied, too,
        which is so for root. Times make no difference.

        Raises:
            ManifestError: One is not there, or cannot be read.
        """
        return tuple(f"{target} {self._digest(target)}" for target in self._sources)

    def copy_into(self, channel: Channel) -> Iterator[tuple[str, list[str]]]:
        """Copy them into a machine, one after the other; a tree is merged into what is there.

        Args:
            channel: The connection to its agent.

        Yields:
            What has been copied, and what was left out of it and why.

        Raises:
            MachineError: Something could not be written in the machine.
            ManifestError: Something is not there on this host, or cannot be read.
        """
        for target, source in self._sources.items():
            try:
                left_out = channel.place(source, target)
            except OSError as error:
                raise self._unreadable(target, error) from error
            yield f"copy {source} to {target}", left_out

    def _digest(self, target: str) -> str:
        digest = hashlib.sha256()
        try:
            for line in _described(self._sources[target].resolve(strict=True), ""):
                digest.update(line.encode(errors="surrogateescape"))
        except OSError as error:
            raise self._unreadable(target, error) from error
        return digest.hexdigest()[:_LETTERS]

    def _unreadable(self, target: str, error: OSError) -> ManifestError:
        source = error.filename or self._sources[target]
        return ManifestError(
            f'nodes.{self._machine}.files."{target}": cannot read {source}: {unreadable(error)}'
        )


def _described(path: Path, name: str) -> Iterator[str]:
    """A line for a file, and for all that is in a directory; what is not copied has none."""
    status = path.lstat()
    owner = f"{status.st_uid}:{status.st_gid}" if os.geteuid() == 0 else ""
    head = f"{name}\0{stat.S_IMODE(status.st_mode):o} {owner}"
    if stat.S_ISREG(status.st_mode):
        seen = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        yield f"{head} file {_content(path, seen)}\n"
    elif stat.S_ISLNK(status.st_mode):
        yield f"{head} link {os.readlink(path)}\0\n"
    elif stat.S_ISDIR(status.st_mode):
        yield f"{head} directory\n"
        for entry in sorted(os.listdir(path)):
            yield from _described(path / entry, f"{name}/{entry}")


@functools.lru_cache(maxsize=4096)
def _content(path: Path, seen: tuple[int, ...]) -> str:
    """A file's digest; that of one which many machines have is taken once.

    Args:
        path: The file.
        seen: What shows cheaply that it was changed.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
