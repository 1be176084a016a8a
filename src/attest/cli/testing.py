"""One run of one test: what `attest run` does, and the other commands that run tests."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec.structs import replace

from attest.cli.keep_on_failure import Keeping
from attest.cluster.cluster import Cluster
from attest.cluster.ground import Ground
from attest.cluster.options import DEFAULT_OPTIONS, ClusterOptions
from attest.errors import AttestError, Terminated, UsageError, host_error
from attest.events import Event, EventLog, Kind
from attest.manifest import Manifest
from attest.report.activity import Activities
from attest.report.journal import journal
from attest.report.live import View, view
from attest.script.driver import Driver, namespace
from attest.script.import_path import importable
from attest.script.run import ScriptRun, TimeLimit
from attest.script.watchdog import Watchdog
from attest.support.concurrency import call_in_thread
from attest.support.run_dirs import held, new_run_directory
from attest.support.text import plain_text

if TYPE_CHECKING:
    from attest.cli.orders import Orders
    from attest.report.first_answer import FirstAnswer

__all__ = ["Options", "run_test"]

_FAILURE: Final = "failure.txt"
"""The file with all that is told of a failure, where that is cut."""

_GREETING: Final = """\
The machines are global names, as in a script: start_all(), machine.succeed("uname -a"), ...
test_script() runs the test's script, and again() does so with the machines as they were before,
and with the script as it is on disk now; help(machine.succeed) explains; Ctrl-D ends the machines.
"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a test is to be run.

    Attributes:
        cluster: How its cluster is to run; its ``out_dir`` is decided here.
        out: The directory for logs and artefacts; default: a new one in the cache.
        keep: Keep the machines of a test that fails; None to ask, where there is somebody to ask.
        verbose: Show consoles and the output of commands.
        interactive: Open a Python console instead of running the script.
        pause_on_failure: Open it when the script has failed.
        check: Check the script before it runs.
        junit: A file for a report as JUnit XML.
    """

    cluster: ClusterOptions = DEFAULT_OPTIONS
    out: Path | None = None
    keep: bool | None = None
    verbose: bool = False
    interactive: bool = False
    pause_on_failure: bool = False
    check: bool = False
    junit: Path | None = None

    @property
    def attended(self) -> bool:
        """Whether a Python console may be opened, for which somebody must be there."""
        return self.interactive or self.pause_on_failure


def run_test(
    test: Manifest, options: Options, ground: Ground | None = None, orders: Orders | None = None
) -> int:
    """Run a test and tell the user what came of it.

    Args:
        test: The test.
        options: How it is to be run.
        ground: What its cluster is to stand on, where that has been begun.
        orders: What the process tells it that watches the test's files, where one does.

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
    waits = orders is not None and orders.ahead is not None
    events = EventLog(held=waits)
    doing = Activities(events, test.nodes)
    script = ScriptRun(test.timeout, lambda: [f"  {each}" for each in doing.now()])
    if not waits:
        _load(script, test, options)
    with (
        _directory(test, options) as directory,
        importable(test.script_path()),
        ExitStack() as ends,
    ):
        run = _Run(test, options, script, events, directory, ground)
        if orders is not None and orders.ahead is not None:
            ends.callback(run.close)
            run.stand_by(orders, orders.ahead)
            events.release()
        keeping = Keeping(options.keep, directory, asks=not options.attended)
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
            _first_answer(events, orders) as answer,
            _threads_told(events, script),
        ):
            try:
                run.go(shown, keeping)
            except BaseException as error:  # such as asyncio's, which are no Exception
                failure = error
                if isinstance(error, OSError) and not run.began:
                    failure = host_error(error) or error
                span.data["error"] = _said(failure)
        seconds = time.monotonic() - begun
        if orders is not None and orders.ended:
            _say(f"{test.name}: ended after {seconds:.1f} s")
            return _exit_code(Terminated())
        for alarm in alarms:
            _say(f"{alarm.machine}: its kernel reported: {alarm.text}")
        if failure is None:
            _say(f"{test.name}: {'ended' if options.interactive else 'passed'} in {seconds:.1f} s")
        else:
            if not isinstance(failure, KeyboardInterrupt):
                run.explain(failure)
            verdict = _verdict(failure, run.began)
            _say(f"{test.name}: {verdict} {seconds:.1f} s; logs: {directory}")
            keeping.settle(_say)
        if orders is not None and answer is not None:
            _report(orders, answer, run, failure)
        return 0 if failure is None else _exit_code(failure)


def _report(orders: Orders, answer: FirstAnswer, run: _Run, failure: BaseException | None) -> None:
    """Tell the user how long it took from the save on, and whoever gave the orders the rest."""
    from attest.script.modules import imported_files

    if orders.saved is not None and (line := answer.line(orders.saved, "saved")):
        _say(line)
    modules = imported_files(failure)
    orders.report(passed=failure is None, started=run.started(), modules=modules)


@contextmanager
def _threads_told(events: EventLog, script: ScriptRun) -> Iterator[None]:
    """Warn of the script's threads that fail: Python lets that end the thread and nothing else."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        from attest.report.traceback import failure_lines, script_lines

        error = args.exc_value
        if error is None or not script_lines(error, script.filename):
            before(args)
            return
        lines = ["a thread of the script has failed; the test goes on:"]
        lines += failure_lines(error, script.filename)
        events.emit(Kind.WARNING, "\n".join(lines))

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _first_answer(
    events: EventLog, orders: Orders | None
) -> AbstractContextManager[FirstAnswer | None]:
    """The time of the first command's answer, where it is asked for."""
    if orders is None:
        return nullcontext()
    from attest.report.first_answer import first_answer

    return first_answer(events)


def _junit(events: EventLog, path: Path | None) -> AbstractContextManager[None]:
    """The report as JUnit XML, where one is asked for."""
    if path is None:
        return nullcontext()
    from attest.report.junit import junit

    return junit(events, path)


def _load(script: ScriptRun, test: Manifest, options: Options) -> None:
    """Load the test's script, as it is now, and check it where that is wanted.

    Raises:
        UsageError: It cannot be read, or is no Python.
        SystemExit: It has mistakes.
    """
    text, filename = ("", "<no script>")
    if test.script or not options.interactive:
        text, filename = test.script_text()
    if options.check:
        from attest.cli.check import of_manifest, report

        if report(of_manifest(test)):
            sys.exit(1)
    try:
        script.load(text, filename)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise UsageError(f"{filename}{line}: {error.msg}") from None


@contextmanager
def _directory(test: Manifest, options: Options) -> Iterator[Path]:
    """Where the run's logs and artefacts go, which no other run has meanwhile."""
    if options.out is None:
        with new_run_directory(test.name) as directory:
            try:
                yield directory
            finally:
                with suppress(OSError):  # it has the logs of a run that has begun
                    directory.rmdir()
        return
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: cannot make {options.out}: {error.strerror}") from None
    with held(options.out, alone=True):
        with suppress(OSError):  # there is none of a run before
            (options.out / _FAILURE).unlink()
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
        self.began = False
        self._test = test
        self._options = options
        self._script = script
        self._events = events
        self._directory = directory
        self._ground = ground
        self._cluster: Cluster | None = None
        self._explained = False

    def stand_by(self, orders: Orders, machines: Mapping[str, bool]) -> None:
        """Let machines come up ahead, until the script is to run, and can be."""
        self._cluster = self._new_cluster()
        self._cluster.stand_by(machines)
        call_in_thread(lambda: self._tell_standby(orders), "await the machines")
        if sys.stderr.isatty():
            import rich.live  # noqa: F401  # takes longer than the first command
        while True:
            orders.wait()
            try:
                _load(self._script, self._test, self._options)
                return
            except (UsageError, SystemExit) as error:
                if isinstance(error, Terminated):
                    raise
                if isinstance(error, UsageError):
                    _say(f"attest: {error}")
                orders.stand_by(again=True)

    def _tell_standby(self, orders: Orders) -> None:
        assert self._cluster is not None, "it has been opened"
        self._cluster.await_standby()
        orders.stand_by()

    def close(self) -> None:
        """End the machines, where they have come up for nothing."""
        if self._cluster is not None:
            self._cluster.close()

    def started(self) -> dict[str, bool]:
        """The machines that were started, see `Cluster.started`."""
        return self._cluster.started() if self._cluster is not None else {}

    def go(self, shown: View, keeping: Keeping) -> None:
        """Open the cluster and do with it what is to be done."""
        self._cluster = self._cluster or self._new_cluster()
        # It is closed last, as it ends while the machines do.
        with (
            closing(Watchdog(self._test.name, self._directory)) as watchdog,
            self._cluster as cluster,
        ):

            def show_consoles(show: bool) -> None:
                shown.consoles = show

            def run_watched(names: dict[str, Any]) -> None:
                with watchdog.watch(self._script.filename, self._test.timeout):
                    self._script.run(names)

            run: Callable[[dict[str, Any]], None] = run_watched
            names: dict[str, Any] = {}
            if self._options.attended:
                run, names = self._repeatable(cluster, lambda: namespace(driver))
            driver = Driver(cluster, run, show_consoles, self._pause)
            if self._options.interactive:
                self._open(namespace(driver) | names, _GREETING)
            else:
                self._run_script(cluster, run, namespace(driver), names, keeping)

    def _repeatable(
        self, cluster: Cluster, names: Callable[[], dict[str, Any]]
    ) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
        """What runs the script so that it can be run again, and the console's names for that."""
        from attest.script.again import Repeatable

        repeatable = Repeatable(
            cluster, self._script, lambda: _load(self._script, self._test, self._options), names
        )
        return repeatable.run, {"again": repeatable.again}

    def _new_cluster(self) -> Cluster:
        return Cluster(
            self._test,
            replace(self._options.cluster, out_dir=self._directory),
            ground=self._ground,
            holds_out_dir=True,
            events=self._events,
            on_fatal=self._script.abort,
        )

    def _run_script(
        self,
        cluster: Cluster,
        run: Callable[[dict[str, Any]], None],
        names: dict[str, Any],
        in_console: dict[str, Any],
        keeping: Keeping,
    ) -> None:
        self.began = True
        try:
            with keeping.of(cluster), _logged(cluster):
                run(names)
        except (Terminated, KeyboardInterrupt):
            raise
        except BaseException as error:
            if self._options.pause_on_failure:
                self.explain(error)
                greeting = f"The test has failed; the machines run on.\n{_GREETING}"
                self._open(names | in_console, greeting)
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
        from attest.report.traceback import bounded, failure_lines

        lines = failure_lines(failure, self._script.filename)
        if isinstance(failure, TimeLimit):
            lines += self._consoles()
        shown = bounded(lines)
        if shown != lines:
            shown.append(self._write_failure(lines))
        for line in ["", *shown]:
            _say(plain_text(line))

    def _write_failure(self, lines: list[str]) -> str:
        """Write all that is told of the failure into a file; returns a line that says where."""
        path = self._directory / _FAILURE
        try:
            path.write_text("".join(f"{line}\n" for line in lines), errors="replace")
        except OSError as error:
            return f"the whole of it could not be written: {error}"
        return f"the whole of it: {path}"

    def _consoles(self) -> list[str]:
        """What the consoles of all machines have shown last, where they have shown anything."""
        lines = []
        for machine in self._cluster.machines.values() if self._cluster is not None else ():
            if last := machine.console_lines(10):
                lines += [f"  last console lines of {machine.name}:"]
                lines += [f"  | {line}" for line in last]
        return lines


@contextmanager
def _logged(cluster: Cluster) -> Iterator[None]:
    """Let the machines' logs be saved when what runs inside the ``with`` block fails."""
    try:
        yield
    except (Terminated, KeyboardInterrupt):
        raise
    except BaseException as error:
        cluster.keep_logs(error)
        raise


def _said(error: BaseException) -> str:
    from attest.report.traceback import bounded, said

    return "\n".join(bounded(said(error)))


def _verdict(failure: BaseException, began: bool) -> str:
    if isinstance(failure, KeyboardInterrupt | Terminated):
        return "interrupted after"
    return "FAILED in" if began else "could not run; ended after"


def _exit_code(failure: BaseException) -> int:
    if isinstance(failure, KeyboardInterrupt):
        return 130
    if isinstance(failure, Terminated):
        return 143
    return failure.exit_code if isinstance(failure, AttestError) else 1


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more: the exit code still tells
        click.echo(line, err=True)
