"""The private directory of a run's temporary files.

It is locked while its driver lives. The cell removes it when the driver dies; what even the cell
could not remove (the host lost power) is swept by the next run, which finds the lock free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path

from attest.errors import HostError
from attest.support.claims import lock, locked

__all__ = ["Scratch"]


class Scratch:
    """A directory that exists from `create` until `close`.

    It has a name from the start, so that a cell can be told to remove it before it exists: a driver
    that is killed in between leaves nothing.

    Attributes:
        path: The directory.

    Raises:
        HostError: The place for it is somebody else's, or cannot be written.
    """

    def __init__(self) -> None:
        base = Path(os.environ.get("TMPDIR") or "/tmp", f"attest-{os.getuid()}")
        try:
            with contextlib.suppress(FileExistsError):
                base.mkdir(mode=0o700)
        except OSError as error:
            raise _unusable(base, error) from error
        status = base.lstat()  # of a link itself: what it leads to would be swept
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise HostError(
                f"{base} is no directory of this user", hint="set TMPDIR to another directory"
            )
        for stale in base.iterdir():
            _sweep(stale)
        self.path = base / f"{os.getpid()}-{os.urandom(4).hex()}"
        self._lock: int | None = None

    def create(self) -> None:
        """Make the directory, and lock it."""
        while self._lock is None:  # another run may have swept it before it was locked
            try:
                self.path.mkdir(mode=0o700)
            except OSError as error:
                raise _unusable(self.path, error) from error
            self._lock = lock(self.path, fcntl.LOCK_SH, waiting=lambda: None)

    def disown(self) -> None:
        """Hold it no more in a fork of the process that has made it, and leave it there."""
        if self._lock is not None:
            os.close(self._lock)  # the lock itself is that process's, too
            self._lock = None

    def close(self) -> None:
        """Remove the directory; nothing happens when it is not there."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _unusable(path: Path, error: OSError) -> HostError:
    return HostError(
        f"cannot make {path} for temporary files: {error.strerror}",
        hint="set TMPDIR to a directory that can be written and has room",
    )


def _sweep(stale: Path) -> None:
    with contextlib.suppress(OSError), locked(stale, fcntl.LOCK_EX) as free:
        if free:  # else its driver lives
            shutil.rmtree(stale, ignore_errors=True)
