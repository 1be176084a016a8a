"""The initrd: a cpio archive in the kernel's "newc" format.

The kernel reads archives that follow each other as one, and so does this module: what is expensive
to make (modules, a busybox tree) is written once, and each image's initrd is the agent's entry
followed by that.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import BinaryIO, Final

__all__ = ["CpioWriter"]

_ALIGNMENT: Final = 4


class CpioWriter:
    """Writes entries to a stream; they are root's and timeless, so equal input makes equal bytes.

    Args:
        stream: Where to; the archive starts at a multiple of four bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inode = 0
        self._directories: set[str] = set()

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file and the directories above it."""
        self._parents(path)
        self._entry(path, stat.S_IFREG | mode, content)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link and the directories above it."""
        self._parents(path)
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and those above it; nothing happens when it is there."""
        path = path.strip("/")
        if path and path not in self._directories:
            self._parents(path)
            self._directories.add(path)
            self._entry(path, stat.S_IFDIR | mode, b"")

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node and the directories above it."""
        self._parents(path)
        self._entry(path, stat.S_IFCHR | mode, b"", device=(major, minor))

    def finish(self) -> None:
        """Write the trailer that ends a cpio archive."""
        self._entry("TRAILER!!!", 0, b"")

    def _parents(self, path: str) -> None:
        parent = path.strip("/").rpartition("/")[0]
        self.directory(parent)

    def _entry(
        self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
    ) -> None:
        name = path.strip("/").encode() + b"\0"
        self._inode += 1
        # inode, mode, uid, gid, links, mtime, size, file system's device, device, name, checksum
        numbers = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08x" % number for number in numbers)
        write: Callable[[bytes], int] = self._stream.write
        write(header + name + _padding(len(header) + len(name)))
        write(content)
        write(_padding(len(content)))


def _padding(length: int) -> bytes:
    return bytes(-length % _ALIGNMENT)
