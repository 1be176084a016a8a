"""A terminal with `attest` in it, and the keys and eyes of its user."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from types import TracebackType


class Terminal:
    """A terminal of some size; it ends with the ``with`` block, and its process with it."""

    def __init__(
        self,
        *arguments: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        rows: int = 33,
        columns: int = 111,
    ) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self._seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "attest", *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=env,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> str:
        """Read until ``text`` has come, and return what came before; what is after it is kept."""
        deadline = time.monotonic() + 120
        while text.encode() not in self._seen:
            readable, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert readable, f"no {text!r} in {self._seen!r}"
            assert self._read(), f"ended without {text!r}: {self._seen!r}"
        before, _, self._seen = self._seen.partition(text.encode())
        return before.decode(errors="replace")

    def rest(self) -> tuple[str, int]:
        """What comes until the end, and the exit code."""
        while self._read():
            pass
        return self._seen.decode(errors="replace"), self.process.wait(60)

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 4096)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self._seen += data
        return bool(data)
