"""`attest run --watch`: runs a test again when a file that it is made of is saved.

This process runs no test. It has a run of the test as its child, whose machines stand by, and tells
it to go on when a file was saved. When that is over, the next such run takes its place.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import click
import msgspec

from attest.cli.orders import LARGEST, PATIENCE, VARIABLE, Go, Orders, Report, Start, Told
from attest.cluster.inputs import machine_files, script_file
from attest.errors import HostError, Terminated
from attest.manifest import load_manifest
from attest.support.file_changes import FileChanges

__all__ = ["watch"]

_WAITING: Final = "waiting for the next save; Ctrl-C ends"

_LATE: Final = 2.0
"""Seconds after which a file's own time does not tell any more when it was saved: it may have been
put in its place by a program that keeps times."""


def watch(manifest: Path, run: Callable[[Orders], int]) -> int:
    """Run a test, and again when one of its files is saved, until the user ends it.

    Args:
        manifest: The test's manifest.
        run: Runs it once, as the process that it is called in was told.

    Returns:
        The exit code of one run, in a process of its own.

    Raises:
        ManifestError: There is no such manifest.
    """
    if start := os.environ.pop(VARIABLE, ""):
        return _run_once(run, Orders(msgspec.json.decode(start, type=Start)))
    if not manifest.is_file():
        load_manifest(manifest)  # says so
    watcher = _Watcher(manifest)
    try:
        watcher.go_on()
    finally:
        watcher.close()


def _run_once(run: Callable[[Orders], int], orders: Orders) -> int:
    try:
        return run(orders)
    except Terminated as terminated:
        if not orders.ended:
            raise
        return int(str(terminated.code))


class _Watcher:
    """Watches a test's files, and has its runs."""

    def __init__(self, manifest: Path) -> None:
        self._manifest = Path(os.path.abspath(manifest))
        self._changes = FileChanges()
        self._machines: set[Path] = set()
        self._modules: set[Path] = set()
        self._watched: set[Path] = set()
        self._ahead: dict[str, bool] = {}
        self._run: _Run | None = None

    def close(self) -> None:
        """End the run that there is."""
        if self._run is not None:
            self._run.end()
        self._changes.close()

    def go_on(self) -> NoReturn:
        """Run the test again and again."""
        self._watch()
        self._run = _Run(self._watched)
        while True:
            self._take_next()

    def _take_next(self) -> None:
        """Wait for what comes next, and do what follows."""
        if self._run is not None and self._heard(self._run.socket):
            self._hear(self._run)
        elif changed := self._changes.read():
            self._changed(changed)

    def _heard(self, told: socket.socket) -> bool:
        """Wait for what a run tells, or for changes; whether it was the run."""
        ready, _, _ = select.select([told.fileno(), self._changes.fileno()], [], [])
        return told.fileno() in ready

    def _hear(self, run: _Run) -> None:
        told = run.hear()
        if told is not None and told.report is None:
            if run.waits and not run.is_awaited:
                run.is_awaited = True
                _say(_WAITING)
            return
        code = run.end()
        self._run = None
        if told is not None and told.report is not None:
            self._learn(told.report)
            missed = {each for each in self._modules - run.watched if _changed_at(each) > run.begun}
            self._watch()
            if missed:
                self._changed(missed)
                return
            self._run = _Run(self._watched, ahead=self._ahead)
        else:
            if code < 0:  # else it has said itself why it has no report
                _say(f"the run was ended by signal {-code}")
            _say(_WAITING)

    def _learn(self, report: Report) -> None:
        """Learn what the next run needs; a test that failed may not have come to all of it."""
        modules = {_absolute(Path(module)) for module in report.modules}
        self._ahead = report.started if report.passed else {**self._ahead, **report.started}
        self._modules = modules if report.passed else self._modules | modules

    def _changed(self, changed: set[Path]) -> None:
        saved = _time_of(changed)
        machines = self._machines
        self._watch()
        run = self._run
        if run is not None and run.waits and not changed & (machines | self._machines):
            run.go(saved)
            _say(f"{_names(changed)} saved")
            return
        restarts = run is not None and not run.waits
        _say(f"{_names(changed)} saved" + ("; the run ends, and begins again" if restarts else ""))
        if run is not None:
            run.end()
        self._run = _Run(self._watched, saved=saved)

    def _watch(self) -> None:
        script = script_file(self._manifest)
        self._machines = set(map(_absolute, machine_files(self._manifest)))
        self._watched = self._machines | self._modules | ({_absolute(script)} if script else set())
        try:
            self._changes.watch(self._watched)
        except OSError as error:
            raise HostError(
                f"cannot watch {error.filename}: {error.strerror}",
                hint="`sysctl fs.inotify.max_user_watches` says how much one user may watch",
            ) from None


class _Run:
    """A run of the test in a process of its own, see `attest.cli.orders`.

    Args:
        watched: The files that are watched.
        ahead: The machines that come up ahead; None: it begins at once.
        saved: When the file was saved for which it begins at once.

    Attributes:
        begun: When its script began at the earliest, in seconds since the epoch.
        watched: The files that were watched when it was started.
        socket: The end of its socket that is ours.
        waits: It waits for `go`.
        is_awaited: The user has been told so.
    """

    def __init__(
        self,
        watched: Set[Path],
        *,
        ahead: Mapping[str, bool] | None = None,
        saved: float | None = None,
    ) -> None:
        self.begun = time.time()
        self.watched = watched
        self.waits = ahead is not None
        self.is_awaited = False
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            start = Start(theirs.fileno(), dict(ahead) if ahead is not None else None, saved)
            try:
                self._process = subprocess.Popen(
                    # Its threads may never come to end it, while something in C has Python's lock.
                    ["setpriv", "--pdeathsig", "KILL", sys.executable, *sys.orig_argv[1:]],
                    env={**os.environ, VARIABLE: msgspec.json.encode(start).decode()},
                    stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for this process, which then ends the run
                )  # fmt: skip
            except FileNotFoundError:
                hint = "apt-get install util-linux"
                raise HostError("`setpriv` was not found", hint=hint) from None

    def go(self, saved: float) -> None:
        """Let the script run, for a file that was saved at that time."""
        self.waits = self.is_awaited = False
        self.begun = time.time()
        self.socket.send(msgspec.json.encode(Go(saved)))

    def hear(self) -> Told | None:
        """What it tells, which is there; None: it has ended."""
        try:
            data = self.socket.recv(LARGEST)
        except ConnectionResetError:  # it has ended, and has not read all
            return None
        told = msgspec.json.decode(data, type=Told) if data else None
        self.waits = self.waits or (told is not None and told.again)
        return told

    def end(self) -> int:
        """End it, and wait until it has ended; its exit code, or a negative signal."""
        self.socket.close()
        try:
            return self._process.wait(PATIENCE + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _time_of(changed: Iterable[Path]) -> float:
    """When these were saved, in seconds since the epoch."""
    now = time.time()
    return max((at for at in map(_changed_at, changed) if now - _LATE < at < now), default=now)


def _changed_at(path: Path) -> float:
    """When a file was written, or put in its place; 0 of one that is not there."""
    try:
        return path.stat().st_ctime
    except OSError:
        return 0.0


def _names(changed: Iterable[Path]) -> str:
    first, *others = sorted(each.name for each in changed)
    return first + (f" and {len(others)} more" if others else "")


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more
        click.echo(f"attest: {line}", err=True)
