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

__all__ = ["Scratch"]


class Scratch:
    """A directory that exists from `create` until `close`.

    It has a name from the start, so that a cell can be told to remove it before it exists: a driver
    that is killed in between leaves nothing.

    Attributes:
        path: The directory.

    Raises:
        HostError: The place for it is somebody else's.
    """

    def __init__(self) -> None:
        base = Path(os.environ.get("TMPDIR") or "/tmp", f"attest-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            base.mkdir(mode=0o700)
        status = base.lstat()  # of a link itself: what it leads to would be swept
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise HostError(
                f"{base} is no directory of this user", hint="set TMPDIR to another directory"
            )
        for stale in base.iterdir():
            _sweep(stale)
        self.path = base / f"{os.getpid()}-{os.urandom(4).hex()}"
        self._lock = -1

    def create(self) -> None:
        """Make the directory, and lock it."""
        while self._lock < 0:
            self.path.mkdir(mode=0o700)
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if self.path.is_dir():  # another run may have swept it before it was locked
                    self._lock = descriptor
                else:
                    os.close(descriptor)

    def close(self) -> None:
        """Remove the directory; nothing happens when it is not there."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _sweep(stale: Path) -> None:
    try:
        descriptor = os.open(stale, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # gone already
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(stale, ignore_errors=True)
    except BlockingIOError:
        return  # its driver lives
    finally:
        os.close(descriptor)
