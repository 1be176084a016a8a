"""The private directory of a run's temporary files.

It is locked while its driver lives. The cell removes it when the driver dies; what even the cell
could not remove (the host lost power) is swept by the next run, which finds the lock free.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from attest.errors import HostError

__all__ = ["Scratch"]


class Scratch:
    """A directory that exists from construction until `close`.

    Attributes:
        path: The directory.

    Raises:
        HostError: The place for it belongs to somebody else.
    """

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir(), f"attest-{os.getuid()}")
        base.mkdir(mode=0o700, exist_ok=True)
        if base.stat().st_uid != os.getuid():
            raise HostError(
                f"{base} belongs to somebody else", hint="set TMPDIR to another directory"
            )
        for stale in base.iterdir():
            _sweep(stale)
        while True:
            self.path = Path(tempfile.mkdtemp(dir=base))
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
