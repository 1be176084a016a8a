"""Files that are watched for changes, by the kernel's inotify: nothing is polled.

The directories are watched that files are in, as editors put new files in the place of old ones.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["FileChanges"]

# linux/inotify.h
_ATTRIB: Final = 0x4
_CLOSE_WRITE: Final = 0x8
_MOVED_FROM: Final = 0x40
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_IGNORED: Final = 0x8000
_ALL: Final = (
    _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
)
_ONLY_DIRECTORIES: Final = 0x1000000
_HEAD: Final = struct.Struct("iIII")

_QUIET: Final = 0.01
"""Seconds without a change after which what was changed together is one change."""

_AGAIN: Final = 0.5
"""Seconds in which what was removed, or is being written, is waited for."""

_OF_EDITORS: Final = re.compile(r"\..*\.sw[a-z]|4913|\.?#.*|.*~")
"""What editors put beside the files that they edit."""


class FileChanges:
    """Tells which of the watched files were changed; to be closed.

    A file is changed when whoever wrote it has closed it, when it was put in its place, renamed or
    removed, or got other permissions; a directory when something in it is, at any depth.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._called(
            self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1"
        )
        self._directories: dict[int, Path] = {}
        self._numbers: dict[Path, int] = {}
        self._paths: dict[Path, dict[str, set[Path]]] = {}
        self._trees: dict[Path, Path] = {}

    def fileno(self) -> int:
        """The descriptor that can be read when something may have changed."""
        return self._descriptor

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._descriptor)

    def watch(self, paths: Iterable[Path]) -> None:
        """Watch these paths, and no others, from now on.

        Args:
            paths: Files and directories; what is not there is watched for.

        Raises:
            OSError: The host's limits do not let so many directories be watched.
        """
        self._paths, self._trees = {}, {}
        for path in paths:
            given = Path(os.path.abspath(path))
            for place in dict.fromkeys((given, given.resolve())):
                self._add(place, given)
        wanted = self._paths.keys() | self._trees.keys()
        for directory in self._numbers.keys() - wanted:
            number = self._numbers.pop(directory)
            del self._directories[number]
            self._libc.inotify_rm_watch(self._descriptor, number)
        for directory in wanted - self._numbers.keys():
            self._watch_directory(directory)

    def read(self) -> set[Path]:
        """Wait for a change, and for those that come with it; which paths were changed.

        They are among those that were given; what happened beside them is no change.
        """
        changed: set[Path] = set()
        unfinished: set[Path] = set()
        select.select([self._descriptor], [], [])
        end = time.monotonic() + _AGAIN
        wait = 0.0
        while select.select([self._descriptor], [], [], wait)[0]:
            for path, place, finished in self._events():
                changed.add(path)
                (unfinished.discard if finished else unfinished.add)(place)
            left = max(end - time.monotonic(), 0.0)
            wait = left if unfinished else min(_QUIET, left) if changed else 0.0
        return changed

    def _add(self, place: Path, given: Path) -> None:
        if place.is_dir():
            for directory, _, _ in os.walk(place):
                self._trees[Path(directory)] = given
        while not place.parent.is_dir():  # its directory is waited for
            place = place.parent
        self._paths.setdefault(place.parent, {}).setdefault(place.name, set()).add(given)

    def _watch_directory(self, directory: Path) -> None:
        path = os.fsencode(directory)
        number = self._libc.inotify_add_watch(self._descriptor, path, _ALL | _ONLY_DIRECTORIES)
        if number < 0 and not directory.is_dir():
            return  # it has gone meanwhile, which is told
        self._directories[self._called(number, str(directory))] = directory
        self._numbers[directory] = number

    def _called(self, result: int, what: str) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), what)
        return result

    def _events(self) -> Iterator[tuple[Path, Path, bool]]:
        """Each path that has been changed, where, and whether that is all of the change."""
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        while data:
            number, mask, _, length = _HEAD.unpack_from(data)
            name = data[_HEAD.size : _HEAD.size + length].rstrip(b"\0")
            data = data[_HEAD.size + length :]
            directory = self._directories.get(number)
            if directory is None:  # not watched any more
                continue
            if mask & (_IGNORED | _DELETE_SELF | _MOVE_SELF):
                yield from ((path, directory, True) for path in self._lose(directory, mask))
            else:
                yield from self._changed(directory, os.fsdecode(name), mask)

    def _lose(self, directory: Path, mask: int) -> Iterator[Path]:
        """A directory has gone, or is elsewhere, and what was in it."""
        if mask & _IGNORED:
            number = self._numbers.pop(directory)
            del self._directories[number]
        yield from (path for paths in self._paths.get(directory, {}).values() for path in paths)
        if directory in self._trees:
            yield self._trees[directory]

    def _changed(self, directory: Path, name: str, mask: int) -> Iterator[tuple[Path, Path, bool]]:
        place = directory / name
        paths = set(self._paths.get(directory, {}).get(name, ()))
        if directory in self._trees and not _OF_EDITORS.fullmatch(name):
            paths.add(self._trees[directory])
        finished = not mask & (_DELETE | _MOVED_FROM)
        if mask & _CREATE:  # what is written is closed afterwards; a link, or a directory, is not
            finished = place.is_symlink() or not place.is_file() or place.stat().st_nlink > 1
        yield from ((path, place, finished) for path in paths)
