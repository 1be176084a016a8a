"""Ends a run whose script is in a call that nothing interrupts, such as ``sum(range(10**11))``.

While such a call has Python's lock, no other thread of Python's runs, and no signal's handler does.
So a process of its own hears of signals, by a pipe that Python's handler in C writes to; and at the
time limit a thread in C (`faulthandler`) tells that process where the script is, and ends the run.
The pipe's end ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

__all__ = ["Watchdog"]

_GRACE: Final = 10.0
"""Seconds in which a script must have ended that is to end."""

# A byte is a signal's number, or the first of "Timeout (…)!", which the threads' frames follow: the
# main thread last, and its innermost frame first.
_WATCH: Final = """
name=$1 driver=$2 file=$3 limit=$4 grace=$5 logs=$6
while byte=$(od -An -tu1 -N1) && [ "$byte" ]; do
    case $byte in
    *' 2') why=interrupted ;;
    *' 15') why=terminated ;;
    *' 84')
        place=
        while read -r line; do
            case $line in
            Thread* | Current*) place= ;;
            "File \\"$file\\""*) place=${place:-$line} ;;
            esac
        done
        place=${place#*, line } place=${place%% *}
        echo
        [ -z "$place" ] || echo "$file:$place: the script is here"
        echo "the test took longer than its $limit s, and its script could not be ended"
        echo "$name: FAILED, and was killed; logs: $logs"
        exit ;;
    *) continue ;;
    esac
    timeout "$grace" cat >/dev/null
    [ $? = 124 ] || exit
    echo "$name: $why, and killed: its script did not end within $grace s; logs: $logs"
    kill -9 "$driver"
    exit
done
"""

_pipes: Final[set[int]] = set()
"""The ends of pipes that are the driver's, and not its forks'."""


class Watchdog:
    """Ends the program when a script does not end when it must.

    That is at its time limit (exit code 1), and after SIGTERM or Ctrl-C (the program is killed). It
    is for the main thread.

    Args:
        name: The test's name.
        logs: The directory of the run's files.
        grace: Seconds that a script has when it must end.
    """

    def __init__(self, name: str, logs: Path, *, grace: float = _GRACE) -> None:
        self._name = name
        self._logs = logs
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def watch(self, filename: str, limit: float) -> Iterator[None]:
        """Watch over the script that runs in the ``with`` block.

        Args:
            filename: The script's name in tracebacks.
            limit: Its time limit in seconds.

        Raises:
            OSError: No process can be started.
        """
        theirs, ours = os.pipe()
        _pipes.add(ours)
        try:
            with os.fdopen(theirs) as stdin:
                self._start(stdin, filename, limit)
            os.set_blocking(ours, False)
            before = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
            faulthandler.dump_traceback_later(limit + self._grace, exit=True, file=ours)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                signal.set_wakeup_fd(before)
        finally:
            _close(ours)

    def _start(self, stdin: TextIO, filename: str, limit: float) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", _WATCH, "watchdog", self._name, str(os.getpid()), filename,
             f"{limit:g}", f"{self._grace:g}", str(self._logs)],
            stdin=stdin, stdout=2, cwd="/",
            start_new_session=True,  # Ctrl-C is for the driver
        )  # fmt: skip

    def close(self) -> None:
        """Wait until its process has ended, as it does a moment after the script."""
        if self._process is not None:
            self._process.wait()


def _close(pipe: int) -> None:
    _pipes.remove(pipe)
    os.close(pipe)


def _forget() -> None:
    """Leave the driver's watchdog to the driver: this is a fork of it."""
    for pipe in list(_pipes):
        _close(pipe)
    signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)
