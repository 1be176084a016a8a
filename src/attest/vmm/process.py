"""The one door to long-running processes: start, watch for the end, kill, last words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from attest.support.procfs import descendants
from attest.vmm.base import ConsolePipes, OnExit, VmmExit

__all__ = ["VmmProcess", "WatchedProcess"]

_LAST_WORDS: Final = 4096
"""Bytes of standard error that are kept for the error message."""


class WatchedProcess:
    """A process with its standard error in a file and a thread that waits for its end.

    Args:
        command: The command line.
        pass_fds: Descriptors it inherits under the same numbers.
        stderr: The file for its standard error.
        on_exit: Called once, in the watching thread, when it has ended.
        complete: Called before, to add what else is known of its end, unless it raises.
        stdin: The descriptor of its standard input; default: empty.
        stdout: The descriptor of its standard output; default: the file.
        env: Its environment; default: the driver's.
        cwd: Its working directory; default: the driver's.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int],
        stderr: Path,
        on_exit: OnExit,
        complete: Callable[[VmmExit], VmmExit] = lambda exit: exit,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._on_exit = on_exit
        self._complete = complete
        self._killed = False
        self._ended = threading.Event()
        self.exit: VmmExit | None = None
        with ExitStack() as undo:
            # Kept open for reading: a cell that closes removes the file before the last words are
            # read.
            self._stderr = undo.enter_context(stderr.open("w+b"))
            with stderr.open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=stdin, stdout=log if stdout is None else stdout, stderr=log,
                    pass_fds=pass_fds, start_new_session=True, env=env, cwd=cwd,
                )  # fmt: skip
            self.pid = self._process.pid
            undo.callback(self._process.wait)
            undo.callback(self._kill_all)
            self._watcher = threading.Thread(
                target=self._watch, name=f"watch {command[0]}", daemon=True
            )
            self._watcher.start()
            undo.pop_all()

    def _watch(self) -> None:
        status = self._process.wait()
        exit = VmmExit(status, self._killed or status == 0, "")
        try:
            exit = replace(exit, stderr=self._last_words())
            exit = self._complete(exit)
        finally:  # whatever is not known of the end: that it has come is told
            self.exit = exit
            self._ended.set()
            self._on_exit(exit)

    def _last_words(self) -> str:
        with self._stderr as stderr:
            return stderr.read()[-_LAST_WORDS:].decode(errors="replace")

    def wait(self, timeout: float | None = None) -> VmmExit | None:
        """Wait for the end, at most ``timeout`` seconds; None when it still runs."""
        self._ended.wait(timeout)
        return self.exit

    def kill(self, *, wait: bool = True) -> None:
        """Kill it and wait for the end; nothing happens when it has ended.

        In a cell the process is `nsenter`, which ends when the VMM, its child, has: so its end is
        also that of the VMM's hold on taps and files. A script that runs the VMM ends with it.
        """
        self._killed = True
        if self._process.returncode is None:  # else its number may be another's
            self._kill_all()
        if wait and threading.current_thread() is not self._watcher:
            self._watcher.join()

    def abandon(self) -> None:
        """Kill it where its start has failed, so that the next one finds what it held free.

        Nobody is waited for who is told of the end: that one may itself wait for the start.
        """
        self.kill(wait=False)
        self._ended.wait()

    def _kill_all(self) -> None:
        inside = descendants(self.pid)
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not inside:  # its group is killed as one, also with a child that it just makes
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        # When somebody stops its child, `nsenter` stops itself too, and would stay so.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)


class VmmProcess:
    """What VMMs have in common: each is a process, see `attest.vmm.base.Vmm`."""

    console: ConsolePipes
    _process: WatchedProcess

    @property
    def pid(self) -> int:
        """Process id of what was started, on the host."""
        return self._process.pid

    @property
    def exit(self) -> VmmExit | None:
        """How it ended, or None while it runs."""
        return self._process.exit

    def wait(self, timeout: float | None = None) -> VmmExit | None:
        """Wait for its end, at most ``timeout`` seconds; None when it still runs."""
        return self._process.wait(timeout)

    def forget_events(self) -> None:
        """Do nothing: it keeps no events for the test."""

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        self._process.kill()

    def abandon(self) -> None:
        """End it where its start has failed, before anybody reads its console.

        Its console is closed, too. As with `WatchedProcess.abandon`, nobody is waited for who is
        told of the end.
        """
        self._process.abandon()
        self.console.close()

    def fork_disks(self, fresh: Sequence[Path]) -> None:
        """It cannot, if it has raw disks: those have no overlays, and are copied.

        Raises:
            ValueError: Always.
        """
        raise ValueError("raw disks have no overlays")

    def set_link(self, index: int, up: bool) -> None:
        """It cannot, if that is not among its capabilities.

        Raises:
            ValueError: Always.
        """
        raise ValueError("its network cards cannot be unplugged")
