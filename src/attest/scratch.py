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
    """A directory that exists from construction until `close`.

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
        while True:
            self.path = base / f"{os.getpid()}-{os.urandom(4).hex()}"
            self.path.mkdir(mode=0o700)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            if self.path.is_dir():  # another run may have swept it before it was locked
                return
            os.close(self._lock)

    def close(self) -> None:
        """Remove the directory; nothing happens when it is gone."""
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
