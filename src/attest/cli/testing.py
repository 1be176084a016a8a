"""One run of one test: what `attest run` does, and the other commands that run tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from msgspec.structs import replace

from attest.cli.keep_on_failure import Keeping
from attest.cluster.cluster import Cluster
from attest.cluster.ground import Ground
from attest.cluster.options import DEFAULT_OPTIONS, ClusterOptions
from attest.errors import AttestError, Terminated, UsageError
from attest.events import Event, EventLog, Kind
from attest.machine.machine import Machine
from attest.manifest import Manifest
from attest.report.activity import Activities
from attest.report.journal import journal
from attest.report.live import View, view
from attest.script.driver import Driver, namespace
from attest.script.run import ScriptRun, TimeLimit
from attest.support.run_dirs import held, new_run_directory
from attest.support.text import plain_text

__all__ = ["Options", "run_test"]

_GREETING: Final = """\
The machines are global names, as in a script: start_all(), machine.succeed("uname -a"), ...
test_script() runs the test's script; help(machine.succeed) explains; Ctrl-D ends the machines."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a test is to be run.

    Attributes:
        cluster: How its cluster is to run; its ``out_dir`` is decided here.
        out: The directory for logs and artefacts; default: a new one in the cache.
        keep: Keep the machines of a test that fails; None to ask, where there is somebody to ask.
        verbose: Show consoles and the output of commands.
        interactive: Open a Python console instead of running the script.
        pause_on_failure: Open it when the script has failed.
        junit: A file for a report as JUnit XML.
    """

    cluster: ClusterOptions = DEFAULT_OPTIONS
    out: Path | None = None
    keep: bool | None = None
    verbose: bool = False
    interactive: bool = False
    pause_on_failure: bool = False
    junit: Path | None = None

    @property
    def attended(self) -> bool:
        """Whether a Python console may be opened, for which somebody must be there."""
        return self.interactive or self.pause_on_failure


def run_test(test: Manifest, options: Options, ground: Ground | None = None) -> int:
    """Run a test and tell the user what came of it.

    Args:
        test: The test.
        options: How it is to be run.
        ground: What its cluster is to stand on, where that has been begun.

    Returns:
        The exit code of the command.

    Raises:
        AttestError: It could not begin.
    """
    if options.attended and not sys.stdin.isatty():
        raise UsageError(
            "--interactive and --pause-on-failure open a Python console, which needs a terminal",
            hint="--snapshot-on-failure keeps the machines for `attest resume`",
        )
    events = EventLog()
    doing = Activities(events, test.nodes)
    script = _script(test, options, doing)
    with _directory(test, options) as directory:
        run = _Run(test, options, script, events, directory, ground)
        begun = time.monotonic()
        failure: BaseException | None = None
        alarms: list[Event] = []
        events.subscribe(lambda event: alarms.append(event) if event.kind is Kind.ALARM else None)
        with (
            # First, so that it is still there for what the others tell when they end.
            view(events, doing, verbose=options.verbose, table=not options.attended) as shown,
            journal(events, directory / "events.jsonl"),
            _junit(events, options.junit),
            events.span(Kind.RUN, test.name, started=events.started) as span,
        ):
            try:
                run.go(shown)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                failure = error
                span.data["error"] = str(error) or type(error).__name__
        seconds = time.monotonic() - begun
        for alarm in alarms:
            _say(f"{alarm.machine}: its kernel reported: {alarm.text}")
        if failure is None:
            _say(f"{test.name}: {'ended' if options.interactive else 'passed'} in {seconds:.1f} s")
            return 0
        run.explain(failure)
        _say(f"{test.name}: FAILED in {seconds:.1f} s; logs: {directory}")
        run.keeping.settle(_say)
        return _exit_code(failure)


def _junit(events: EventLog, path: Path | None) -> AbstractContextManager[None]:
    """The report as JUnit XML, where one is asked for."""
    if path is None:
        return nullcontext()
    from attest.report.junit import junit

    return junit(events, path)


def _script(test: Manifest, options: Options, doing: Activities) -> ScriptRun:
    """The test's script.

    Raises:
        UsageError: It is no Python.
    """
    text, filename = ("", "<no script>")
    if test.script or not options.interactive:
        text, filename = test.script_text()
    try:
        return ScriptRun(
            text, filename, test.timeout, lambda: [f"  {each}" for each in doing.now()]
        )
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise UsageError(f"{filename}{line}: {error.msg}") from None


@contextmanager
def _directory(test: Manifest, options: Options) -> Iterator[Path]:
    """Where the run's logs and artefacts go, which no other run removes meanwhile."""
    if options.out is None:
        with new_run_directory(test.name) as directory:
            yield directory
        return
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: cannot make {options.out}: {error.strerror}") from None
    with held(options.out):
        yield options.out


class _Run:
    """One run of a test: its cluster, its script, and what is told of its failure."""

    def __init__(
        self,
        test: Manifest,
        options: Options,
        script: ScriptRun,
        events: EventLog,
        directory: Path,
        ground: Ground | None,
    ) -> None:
        self.keeping = Keeping(options.keep, directory, asks=not options.attended)
        self._test = test
        self._options = options
        self._script = script
        self._events = events
        self._directory = directory
        self._ground = ground
        self._machines: dict[str, Machine] = {}
        self._explained = False

    def go(self, shown: View) -> None:
        """Make the cluster and do with it what is to be done."""
        with Cluster(
            self._test,
            replace(self._options.cluster, out_dir=self._directory),
            ground=self._ground,
            events=self._events,
            on_fatal=self._script.abort,
        ) as cluster:
            self._machines = cluster.machines

            def show_consoles(show: bool) -> None:
                shown.consoles = show

            names = namespace(Driver(cluster, self._script.run, show_consoles, self._pause))
            if self._options.interactive:
                self._open(names, _GREETING)
            else:
                self._run_script(cluster, names)

    def _run_script(self, cluster: Cluster, names: dict[str, Any]) -> None:
        try:
            with self.keeping.of(cluster):
                self._script.run(names)
        except Terminated:
            raise
        except (Exception, SystemExit) as error:
            if self._options.pause_on_failure:
                self.explain(error)
                self._open(names, f"The test has failed; the machines run on.\n{_GREETING}")
            raise

    def _pause(self, names: dict[str, Any]) -> None:
        if self._options.attended:
            self._open(names, "A breakpoint of the script; Ctrl-D lets it go on.")

    def _open(self, names: dict[str, Any], greeting: str) -> None:
        from attest.script.console import open_console

        open_console(names, greeting)

    def explain(self, failure: BaseException) -> None:
        """Say why the test failed, the first time that this is called."""
        if self._explained:
            return
        self._explained = True
        from attest.report.traceback import script_lines

        lines = ["", *script_lines(failure, self._script.filename)]
        lines += [str(failure) if isinstance(failure, AttestError) else repr(failure)]
        if isinstance(failure, TimeLimit):
            lines += self._consoles()
        lines += getattr(failure, "__notes__", [])
        for line in lines:
            _say(plain_text(line))

    def _consoles(self) -> list[str]:
        """What the consoles of all machines have shown last, where they have shown anything."""
        lines = []
        for machine in self._machines.values():
            if last := machine.console_lines(10):
                lines += [f"  last console lines of {machine.name}:"]
                lines += [f"  | {line}" for line in last]
        return lines


def _exit_code(failure: BaseException) -> int:
    if isinstance(failure, KeyboardInterrupt):
        return 130
    if isinstance(failure, Terminated):
        return 143
    return failure.exit_code if isinstance(failure, AttestError) else 1


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more: the exit code still tells
        click.echo(line, err=True)
