"""The machine as a test sees it.

Method names, parameters, defaults and failure behaviour are those of the NixOS test driver where
it has them.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attest.errors import ChannelError, CommandFailed, MachineError, UsageError, WaitFailed
from attest.events import Kind
from attest.guest.agent_channel import AgentChannel, Completed, Process
from attest.guest.console import plain_text
from attest.guest.protocol import PowerAction, WaitKind
from attest.life import Life, MachineContext, Return, Stage
from attest.scope import cancellable
from attest.vmm.base import Saved, Vmm

if TYPE_CHECKING:
    from attest.checkpoint import Snapshot

__all__ = ["Machine"]

DEFAULT_TIMEOUT: Final = 900.0
"""Seconds that NixOS's driver waits where a script names no limit."""

_POLL_FIRST: Final = 0.01
_POLL_LAST: Final = 0.25
"""Seconds between the tries of a wait that must try: from the first to the last."""

_SHOWN_OUTPUT: Final = 16_384
"""Characters of a command's output that go into the events; the test itself gets all of it."""


class Machine:
    """One machine of a cluster.

    Every method that needs the machine starts it and waits until it is ready. Methods can be
    called from several threads at once.
    """

    def __init__(self, name: str, context: MachineContext) -> None:
        self.name = name
        self.out_dir = context.out_dir
        self._context = context
        self._events = context.events
        self._lock = threading.RLock()
        self._life: Life | None = None

    def __repr__(self) -> str:
        return f"<machine {self.name}: {self.stage}>"

    # Starting and ending

    @property
    def stage(self) -> Stage:
        """How far it has come since its last start."""
        return self._life.stage if self._life else Stage.OFF

    @property
    def booted(self) -> bool:
        """It has been started and has not ended."""
        return self._life is not None and not self._life.ended

    @property
    def connected(self) -> bool:
        """Its agent answers."""
        return self.booted and self.stage.reached(Stage.AGENT)

    @property
    def absence(self) -> str:
        """Why nobody is there who would answer; empty when somebody is."""
        return self._life.absence if self._life else "not started"

    def is_up(self) -> bool:
        """It has been started and its agent answers."""
        return self.connected

    @property
    def pid(self) -> int | None:
        """Process id of its VMM on the host, or None while it is off."""
        return self._life.vmm.pid if self._life and self.booted else None

    def start(self, allow_reboot: bool = False) -> None:
        """Start the machine and return at once; nothing happens when it is up.

        Args:
            allow_reboot: A reboot of the guest boots it again; otherwise it ends the machine.
        """
        with self._lock:
            if self.booted:
                return
            if self._life is not None:
                self._life.kill()
            self._life = Life(self.name, self._context, allow_reboot)

    def connect(self) -> None:
        """Wait until the machine is ready; start it first when it is off.

        Raises:
            MachineError: It did not come up; says at which stage it stopped.
        """
        self._alive().ready()

    @property
    def channel(self) -> AgentChannel:
        """The connection to its agent; starts the machine and waits until it is ready."""
        return self._alive().ready()

    def shutdown(self) -> None:
        """Power the machine off in an orderly way and wait for its end."""
        if not self.booted:
            return
        with self._events.span(Kind.ACTION, "shut down", machine=self.name):
            self._leave(PowerAction.POWER_OFF)
            self.wait_for_shutdown()

    def crash(self) -> None:
        """End the machine at once, as a power cut does."""
        life = self._life
        if life is None or not self.booted:
            return
        with self._events.span(Kind.ACTION, "crash", machine=self.name):
            life.kill()

    def reboot(self) -> None:
        """Reboot in an orderly way; it must have been started with ``allow_reboot=True``."""
        with self._events.span(Kind.ACTION, "reboot", machine=self.name):
            life = self._alive()
            if not life.allow_reboot:
                raise MachineError(self.name, "reboot() needs start(allow_reboot=True)")
            life.reboot(DEFAULT_TIMEOUT)

    def snapshot(self, name: str) -> Snapshot:
        """Save the machine as it is now; it stands still meanwhile, and goes on.

        Args:
            name: What errors and logs call it.

        Raises:
            MachineError: It could not be saved.
        """
        self.connect()
        with self._events.span(Kind.ACTION, f"snapshot {name!r}", machine=self.name):
            return self._context.snapshot(name)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this machine and wait until it is ready.

        Commands and waits under way fail with a `ChannelError` that says so. The machine keeps its
        identity; its clock is right, and its random numbers are others than then.

        Raises:
            UsageError: It is a snapshot of another machine.
            MachineError: It did not come back.
        """
        if snapshot.machine != self.name:
            raise UsageError(
                f"{snapshot!r} cannot be restored as {self.name}",
                hint="snapshot.clone() starts other machines from it",
            )
        with self._events.span(Kind.ACTION, f"restore {snapshot.name!r}", machine=self.name):
            self.go_back(snapshot.saved(), snapshot.name, threading.Barrier(1))
            self.connect()

    def go_back(self, saved: Saved, name: str, together: threading.Barrier) -> None:
        """Begin to go back to what was saved; it runs when all who share ``together`` can."""
        with self._lock:
            channel = self.leave(name)
            allow_reboot = self._life.allow_reboot if self._life else False
            back = Return(saved, _restored(name), channel, together)
            self._life = Life(self.name, self._context, allow_reboot, back)

    def leave(self, name: str) -> AgentChannel | None:
        """End this life, so that it can `go_back`; its channel, where it has one, stays open."""
        return self._life.leave(_restored(name)) if self._life else None

    def reach_again(self) -> None:
        """Connect to its agent anew, where the connection did not outlive that it was saved."""
        if self._life is not None:
            self._life.reach_again("the machine was saved")

    @property
    def vmm(self) -> Vmm:
        """Its VMM, which may have ended; of a machine that was started."""
        if self._life is None:
            raise self._error("it was not started")
        return self._life.vmm

    def wait_for_shutdown(self) -> None:
        """Wait until the machine has ended by itself."""
        life = self._life
        if life is None:
            return
        with self._events.span(Kind.WAIT, "wait for the machine to power off", machine=self.name):
            life.ending = True
            if life.vmm.wait(DEFAULT_TIMEOUT) is None:
                raise self._error(f"did not power off in {DEFAULT_TIMEOUT:g} s")
            life.kill()

    def _leave(self, action: PowerAction) -> None:
        channel = self.channel
        self._alive().ending = True
        channel.power(action)

    def expect_end(self) -> None:
        """From now on the end of its VMM is no failure."""
        if self._life is not None:
            self._life.ending = True

    def close(self) -> None:
        """End the machine without ceremony, at the end of its cluster."""
        if self._life is not None:
            self._life.kill()

    # Commands

    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> tuple[int, str]:
        """Run a command with bash under ``set -euo pipefail``.

        Returns:
            Exit code and standard output. 124 when ``timeout`` seconds have passed; ``(-1,
            output)`` without ``check_return``; ``(-2, "")`` at once, with the command still
            running, without ``check_output``.
        """
        if not check_output:
            channel = self.channel
            self._events.emit(Kind.COMMAND, f"start: {command.strip()}", machine=self.name)
            process = channel.start(
                f"set -euo pipefail; {command}", timeout=timeout, stdout=_drop, stderr=_drop
            )
            threading.Thread(target=_drain, args=[process], daemon=True).start()
            return -2, ""
        completed = self._run(command, timeout)
        output = _text(completed.stdout)
        return (completed.status if check_return else -1), output

    def succeed(self, *commands: str, timeout: float | None = None) -> str:
        """Run commands, each of which must exit with 0.

        Returns:
            The standard outputs, joined.

        Raises:
            CommandFailed: One did not.
        """
        return self._require(commands, timeout, lambda status: status == 0, "to succeed")

    def fail(self, *commands: str, timeout: float | None = None) -> str:
        """Run commands, each of which must exit with another code than 0.

        Returns:
            The standard outputs, joined.

        Raises:
            CommandFailed: One succeeded.
        """
        return self._require(commands, timeout, lambda status: status != 0, "to fail")

    def spawn(
        self,
        command: str,
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        pty: tuple[int, int] | None = None,
    ) -> Process:
        """Start a command and return it running.

        Args:
            command: For bash, as with `execute`, but without ``set -euo pipefail``.
            user: Who runs it; default root.
            env: Added to its environment.
            stdin: Its standard input is to be written.
            pty: Rows and columns of a terminal for it.
        """
        channel = self.channel
        self._events.emit(Kind.COMMAND, f"start: {command}", machine=self.name)
        return channel.start(command, user=user, env=env, stdin=stdin, pty=pty)

    def wait_until_succeeds(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Repeat a command until it exits with 0, and return its output.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds.
        """
        return self._wait_until(command, timeout, lambda status: status == 0, "succeed")

    def wait_until_fails(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Repeat a command until it exits with another code than 0, and return its output.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds.
        """
        return self._wait_until(command, timeout, lambda status: status != 0, "fail")

    def sleep(self, secs: float) -> None:
        """Let ``secs`` seconds pass in the machine."""
        self.succeed(f"sleep {secs}")

    def _require(
        self,
        commands: tuple[str, ...],
        timeout: float | None,
        accept: Callable[[int], bool],
        expected: str,
    ) -> str:
        outputs = []
        for command in commands:
            completed = self._run(command, timeout)
            outputs.append(_text(completed.stdout))
            if not accept(completed.status):
                raise CommandFailed(
                    self.name, command, completed.status, outputs[-1], _text(completed.stderr),
                    expected=expected,
                )  # fmt: skip
        return "".join(outputs)

    def _run(self, command: str, timeout: float | None) -> Completed:
        channel = self.channel
        with self._events.span(Kind.COMMAND, command.strip(), machine=self.name) as span:
            completed = self._attempt(channel, command, timeout)
            span.data |= {
                "status": completed.status,
                "stdout": _shown(completed.stdout),
                "stderr": _shown(completed.stderr),
            }
        return completed

    def _attempt(self, channel: AgentChannel, command: str, timeout: float | None) -> Completed:
        with self._explained():
            process = channel.start(f"set -euo pipefail; {command}", timeout=timeout)
            try:
                with cancellable(process.cancel):
                    return process.wait()
            except BaseException:
                process.abandon()
                raise

    def _wait_until(
        self, command: str, timeout: float, accept: Callable[[int], bool], verb: str
    ) -> str:
        channel = self.channel
        deadline = time.monotonic() + timeout
        with self._events.span(
            Kind.WAIT, f"wait until `{command.strip()}` {verb}s", machine=self.name
        ) as span:
            for pause in _pauses():
                left = deadline - time.monotonic()
                completed = self._attempt(channel, command, max(left, 0.001))
                if accept(completed.status):
                    span.data["stdout"] = _shown(completed.stdout)
                    return _text(completed.stdout)
                if time.monotonic() + pause >= deadline:
                    last = f"{_text(completed.stdout)}{_text(completed.stderr)}".strip()
                    raise WaitFailed(
                        self.name,
                        f"`{command}` did not {verb} in {timeout:g} s: exit code {completed.status}"
                        + (f", last output:\n{last}" if last else ""),
                    )
                time.sleep(pause)
        raise AssertionError("pauses never end")

    # Waits that the agent watches

    def wait_for_unit(
        self, unit: str, user: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until a systemd unit is active.

        Raises:
            WaitFailed: It failed, or is inactive with nothing pending, or ``timeout`` seconds
            passed.
        """
        if user is not None:
            self._wait_for_user_unit(unit, user, timeout)
            return
        try:
            self._wait(f"unit {unit}", WaitKind.UNIT, unit, timeout=timeout)
        except WaitFailed as error:
            raise self._with_journal(unit, error) from None

    def wait_for_open_port(
        self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until something accepts TCP connections on a port."""
        self._wait(f"port {port} of {addr}", WaitKind.PORT_OPEN, addr, port=port, timeout=timeout)

    def wait_for_closed_port(
        self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until nothing accepts TCP connections on a port."""
        self._wait(
            f"port {port} of {addr} to close",
            WaitKind.PORT_CLOSED,
            addr,
            port=port,
            timeout=timeout,
        )

    def wait_for_open_unix_socket(
        self, addr: str, is_datagram: bool = False, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until something listens on a Unix socket."""
        self._wait(
            f"socket {addr}", WaitKind.UNIX_SOCKET, addr, timeout=timeout, datagram=is_datagram
        )

    def wait_for_file(self, filename: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until a file exists; ``filename`` is shell text, so globs and quotes work."""
        if re.fullmatch(r"/[\w@%+=:,./-]*", filename):
            self._wait(f"file {filename}", WaitKind.FILE_EXISTS, filename, timeout=timeout)
        else:
            self.wait_until_succeeds(f"test -e {filename}", timeout=timeout)

    def wait_for_console_text(self, regex: str, timeout: float | None = None) -> None:
        """Wait until the console shows a text, searching on from the last match."""
        console = self._alive().console
        with self._events.span(Kind.WAIT, f"wait for console text {regex!r}", machine=self.name):
            if not console.search(re.compile(regex, re.MULTILINE), timeout):
                raise WaitFailed(self.name, f"the console did not show {regex!r}")

    def _wait(self, what: str, kind: WaitKind, subject: str, **options: Any) -> None:
        channel = self.channel
        with (
            self._events.span(Kind.WAIT, f"wait for {what}", machine=self.name) as span,
            self._explained(),
        ):
            wait = channel.start_wait(kind, subject, **options)
            with cancellable(wait.cancel):
                span.data["seen"] = wait.result()

    def _wait_for_user_unit(self, unit: str, user: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._events.span(Kind.WAIT, f"wait for unit {unit} of {user}", machine=self.name):
            for pause in _pauses():
                state = self.get_unit_property(unit, "ActiveState", user)
                if state == "active":
                    return
                if state == "failed":
                    raise WaitFailed(self.name, f'unit "{unit}" of {user} has failed')
                if state == "inactive" and "No jobs" in self.systemctl("list-jobs --full", user)[1]:
                    raise WaitFailed(
                        self.name,
                        f'unit "{unit}" of {user} is inactive and there are no pending jobs',
                    )
                if time.monotonic() + pause >= deadline:
                    raise WaitFailed(
                        self.name, f'unit "{unit}" of {user} is {state} after {timeout:g} s'
                    )
                time.sleep(pause)

    def _with_journal(self, unit: str, error: WaitFailed) -> WaitFailed:
        completed = self._attempt(
            self.channel, f"journalctl --no-pager --quiet -n 20 -u {shlex.quote(unit)}", 30
        )
        lines = [plain_text(line) for line in _text(completed.stdout).splitlines()]
        if lines:
            error.args = ("\n".join([str(error), f"  last journal lines of {unit}:",
                                     *(f"  | {line}" for line in lines)]),)  # fmt: skip
            error.message = error.args[0]
        return error

    # systemd

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        """Run ``systemctl`` with the arguments ``q``, of a user's manager if ``user`` is given."""
        if user is None:
            return self.execute(f"systemctl {q}")
        command = f"XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user {q}"
        return self.execute(f"su -l {shlex.quote(user)} --shell /bin/sh -c {shlex.quote(command)}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        """All properties of a unit, as ``systemctl show`` prints them."""
        status, output = self.systemctl(f"--no-pager show {shlex.quote(unit)}", user)
        if status != 0:
            raise self._error(f'retrieving systemctl info for unit "{unit}" failed with {status}')
        pairs = (line.partition("=") for line in output.splitlines())
        return {key: value for key, separator, value in pairs if separator}

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        """One property of a unit."""
        status, output = self.systemctl(
            f"--no-pager show {shlex.quote(unit)} --property={shlex.quote(property)}", user
        )
        if status != 0 or "=" not in output:
            raise self._error(f'retrieving property {property} of unit "{unit}" failed')
        return output.strip().partition("=")[2]

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Require a unit's ActiveState to be ``require_state`` now."""
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise WaitFailed(
                self.name, f'unit "{unit}" is "{state}", required was "{require_state}"'
            )

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """``systemctl start``."""
        return self.systemctl(f"start {shlex.quote(jobname)}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """``systemctl stop``."""
        return self.systemctl(f"stop {shlex.quote(jobname)}", user)

    # Files and networks

    def copy_from_host(self, source: str | Path, target: str) -> None:
        """Copy a file or a directory tree into the machine, with modes, owners, times and links."""
        channel = self.channel
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._explained(),
        ):
            for warning in channel.put(Path(source), target):
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """Copy a file or a directory tree into ``target_dir`` below the output directory."""
        channel = self.channel
        name = Path(source).name
        if name in ("", ".."):  # the copy would take the place of a directory that holds more
            raise UsageError(f"{self.name}: cannot copy {source!r}: give the path of what is in it")
        target = self.out_dir / target_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._explained(),
        ):
            for warning in channel.get(source, target):
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    copy_from_vm = copy_from_machine

    def forward_port(self, host_port: int = 8080, guest_port: int = 80) -> None:
        """Carry TCP connections to ``127.0.0.1:host_port`` into the machine; needs no network."""
        self.channel.forward(host_port, guest_port)

    def block(self) -> None:
        """Take the machine's network away."""
        self._set_links(False, "block network")

    def unblock(self) -> None:
        """Give the machine's network back."""
        self._set_links(True, "unblock network")

    def _set_links(self, up: bool, what: str) -> None:
        with self._events.span(Kind.ACTION, what, machine=self.name):
            self._context.set_links(self._alive().vmm, up)

    # Logging

    def log(self, msg: str) -> None:
        """Write a message to the run's log."""
        self._events.emit(Kind.LOG, msg, machine=self.name)

    @contextmanager
    def nested(self, msg: str) -> Iterator[None]:
        """Group what happens inside under a message."""
        with self._events.span(Kind.SUBTEST, msg, machine=self.name):
            yield

    def send_console(self, chars: str) -> None:
        """Type into the machine's console."""
        self._alive().console.send(chars)

    def console_lines(self, count: int = 20) -> list[str]:
        """The last lines of its console."""
        return self._life.console.last_lines(count) if self._life else []

    # Inside

    def _alive(self) -> Life:
        self.start()
        assert self._life is not None
        return self._life

    def _error(self, message: str) -> MachineError:
        return MachineError(self.name, message)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A lost channel is mostly the machine's end: say what became of it."""
        life = self._life
        try:
            yield
        except ChannelError as error:
            if life is None:
                raise
            raise life.explain(error) from None


def _restored(name: str) -> str:
    return f"the machine was restored to {name!r}"


def _drop(piece: bytes) -> None:
    """A sink that keeps nothing."""


def _drain(process: Process) -> None:
    """Take what nobody wants to see, so that the command never waits for its output to be read."""
    with suppress(MachineError):
        process.wait()


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def _shown(output: bytes) -> str:
    text = plain_text(_text(output[: 4 * _SHOWN_OUTPUT]))
    return text if len(text) <= _SHOWN_OUTPUT else f"{text[:_SHOWN_OUTPUT]}\n[…]"


def _pauses() -> Iterator[float]:
    pause = _POLL_FIRST
    while True:
        yield pause
        pause = min(pause * 1.5, _POLL_LAST)
