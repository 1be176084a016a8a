"""What the set-up is doing, while it takes minutes.

That is one line that changes on a terminal, and lines now and then elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO

__all__ = ["PipProgress", "Progress", "run"]

_INTERVAL: Final = 3.0
"""Seconds between two lines about the same, where there is no terminal."""


class Progress:
    """Tells what several activities are doing, from any thread.

    Args:
        stream: Where.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._doing: dict[str, str] = {}
        self._told: dict[str, float] = {}

    def tell(self, activity: str, text: str) -> None:
        """Say what an activity is doing now; an empty text ends it."""
        with self._lock:
            self._doing[activity] = text
            if self._stream.isatty():
                self._show()
            elif text and time.monotonic() - self._told.get(activity, 0.0) >= _INTERVAL:
                self._told[activity] = time.monotonic()
                print(f"  {activity}: {text}", file=self._stream, flush=True)

    def _show(self) -> None:
        line = " · ".join(f"{who}: {text}" for who, text in self._doing.items() if text)
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\033[K{line[:width]}")
        self._stream.flush()


class PipProgress:
    """Reads what pip prints, line by line.

    Args:
        expected: How many packages it is to install.
        progress: Told what it is doing.
    """

    def __init__(self, expected: int, progress: Callable[[str], None]) -> None:
        self._expected = expected
        self._progress = progress
        self._found = 0
        self._bytes = 0.0

    def line(self, line: str) -> None:
        """Take the next line."""
        if re.match(r"(Collecting|Requirement already satisfied:?) ", line):
            self._found = min(self._found + 1, self._expected)
        elif size := re.search(r"Downloading .*\(([\d.]+) ([kM]?B)\)", line):
            self._bytes += float(size[1]) * {"B": 1e-6, "kB": 1e-3, "MB": 1.0}[size[2]]
        elif line.startswith("Installing collected packages"):
            self._progress(f"installing {self._expected} packages")
            return
        else:
            return
        self._progress(
            f"{self._found} of {self._expected} packages, {self._bytes:.1f} MB downloaded"
        )


def run(
    command: Sequence[str],
    follow: Callable[[str], None],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str],
) -> tuple[int, str]:
    """Run a command; its exit code and its output, errors among it.

    Args:
        command: The command.
        follow: Called with each line of the output, as it comes.
        cwd: Where it runs.
        env: Its environment.
    """
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            follow(line.rstrip("\n"))
    return process.returncode, "".join(lines)
