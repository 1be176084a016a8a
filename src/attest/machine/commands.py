"""Commands in a machine."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec.structs import replace

from attest.errors import CommandFailed, MachineError
from attest.events import Kind
from attest.guest.channel import Channel, Command, Running
from attest.guest.channel import Completed as GuestCompleted
from attest.machine.completed import (
    Completed,
    command_failed,
    shown_command,
    text_of,
    verdict,
)
from attest.machine.conditions import watched
from attest.machine.output import Output
from attest.machine.power import Power
from attest.support.arguments import command_line, text
from attest.support.cancellation import cancellable
from attest.support.durations import Duration, limit, seconds
from attest.support.polling import DEFAULT_TIMEOUT, tries
from attest.support.text import last_lines

__all__ = ["Commands"]

_DIRECTORY: Final = "/tmp"
"""Where a program runs without a shell; bash runs there by itself."""


class RootShell:
    """What scripts take for the socket of a root shell; each `send` is a command of its own."""

    def __init__(self, machine: Commands) -> None:
        self._machine = machine

    def send(self, data: bytes) -> int:
        """Run lines of bash and wait for nothing; return how many bytes they were."""
        self._machine.execute(data.decode(), check_output=False)
        return len(data)


class Commands(Power):
    """Commands: run to their end, repeated until they succeed, or started and left running."""

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = False,
        timeout: Duration | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: str | bytes | None = None,
    ) -> Completed:
        r"""Run a command to its end, as `subprocess.run` does on the host.

        It ends when it has exited and its output has been closed, by what it started, too.

        Example::

            done = machine.run(["grep", "-c", "root", "/etc/passwd"])
            assert (done.status, done.stdout) == (0, "1\n")
            done = machine.run("echo $GREETING; cat >&2", env={"GREETING": "hello"}, stdin="there")
            assert (done.stdout, done.stderr) == ("hello\n", "there")

        Args:
            command: A program and its arguments, which no shell sees; or a text for bash. As with
                `succeed`, and other than with `subprocess`, bash runs it under ``set -euo
                pipefail``: it stops at the first command that fails.
            check: Raise `CommandFailed` when the exit code is not 0.
            timeout: Seconds, or a timedelta, after which it is killed with all that it has started.
            user: Who runs it, a name or a number; default root.
            env: Added to its environment.
            cwd: Its working directory; default ``/tmp``.
            stdin: Its standard input, text as UTF-8; default: it is empty.

        Raises:
            CommandFailed: It exited with another code than 0, with ``check``; or ``timeout`` has
                passed, in any case (its ``status`` is 124).
            MachineError: It could not be started; or it needs what the backdoor shell of a NixOS
                guest cannot do, which is to give a command standard input.
        """
        timeout = limit(timeout, f"{self.name}: run: timeout")
        command = command_line(command, f"{self.name}: run: command")
        if not isinstance(command, str):
            cwd = cwd or _DIRECTORY
        data = stdin.encode() if isinstance(stdin, str) else stdin
        ended = self._run(
            Command(
                command, timeout=timeout, cwd=cwd, user=user, env=env,
                strict=isinstance(command, str),
            ),
            data,
        )  # fmt: skip
        if ended.timed_out:
            raise self._failed(_line(command), ended, f"to end in {timeout:g} s")
        if check and ended.status != 0:
            raise self._failed(_line(command), ended, "to succeed")
        return Completed(ended.status, text_of(ended.stdout), text_of(ended.stderr))

    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> tuple[int, str]:
        """Run a command with bash in ``/tmp``, under ``set -euo pipefail``.

        Returns:
            Exit code and standard output. 124 when ``timeout`` seconds have passed; ``(-1,
            output)`` without ``check_return``; ``(-2, "")`` at once, with the command still
            running, without ``check_output``.
        """
        text(command, f"{self.name}: execute: command")
        timeout = limit(timeout, f"{self.name}: execute: timeout")
        if not check_output:
            channel = self._channel
            self._events.emit(Kind.COMMAND, f"start: {command.strip()}", machine=self.name)
            process = channel.start(
                Command(command, timeout=timeout, strict=True), stdout=_drop, stderr=_drop
            )
            threading.Thread(target=_drain, args=[process], daemon=True).start()
            return -2, ""
        completed = self._run(Command(command, timeout=timeout, strict=True))
        output = text_of(completed.stdout)
        return (completed.status if check_return else -1), output

    def succeed(self, *commands: str, timeout: Duration | None = None) -> str:
        """Run commands, each of which must exit with 0.

        Returns:
            The standard outputs, joined.

        Raises:
            CommandFailed: One did not.
        """
        return self._require(commands, timeout, lambda status: status == 0, "succeed")

    def fail(self, *commands: str, timeout: Duration | None = None) -> str:
        """Run commands, each of which must exit with another code than 0.

        Returns:
            The standard outputs, joined.

        Raises:
            CommandFailed: One succeeded.
        """
        return self._require(commands, timeout, lambda status: status != 0, "fail")

    def spawn(
        self,
        command: str,
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        pty: tuple[int, int] | None = None,
    ) -> Running:
        """Start a command and return it running.

        Args:
            command: For bash, as with `execute`, but without ``set -euo pipefail``.
            user: Who runs it; default root.
            env: Added to its environment.
            stdin: Its standard input is to be written.
            pty: Rows and columns of a terminal for it.
        """
        text(command, f"{self.name}: spawn: command")
        channel = self._channel
        self._events.emit(Kind.COMMAND, f"start: {command}", machine=self.name)
        return channel.start(Command(command, user=user, env=env, stdin=stdin, pty=pty))

    @property
    def shell(self) -> RootShell:
        """Takes lines for a root shell; see `RootShell`."""
        return RootShell(self)

    def wait_until_succeeds(
        self,
        command: str,
        timeout: Duration = DEFAULT_TIMEOUT,
        attempt_timeout: Duration | None = None,
    ) -> str:
        """Repeat a command until it exits with 0, and return its output.

        Args:
            command: As with `execute`.
            timeout: Seconds, or a timedelta; with 0 it is tried once.
            attempt_timeout: The same for one attempt, which is then ended, and has failed.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds.
        """
        return self._wait_until(
            command, timeout, attempt_timeout, lambda each: each == 0, "succeed"
        )

    def wait_until_fails(
        self,
        command: str,
        timeout: Duration = DEFAULT_TIMEOUT,
        attempt_timeout: Duration | None = None,
    ) -> str:
        """Repeat a command until it exits with another code than 0, and return its output.

        Args:
            command: As with `execute`.
            timeout: Seconds, or a timedelta; with 0 it is tried once.
            attempt_timeout: The same for one attempt, which is then ended, and has failed.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds.
        """
        return self._wait_until(command, timeout, attempt_timeout, lambda each: each != 0, "fail")

    def sleep(self, secs: Duration) -> None:
        """Let ``secs`` seconds, or a timedelta, pass in the machine."""
        self.succeed(f"sleep {seconds(secs, f'{self.name}: sleep: secs'):.10g}")

    def _require(
        self,
        commands: tuple[str, ...],
        timeout: Duration | None,
        accept: Callable[[int], bool],
        method: str,
    ) -> str:
        timeout = limit(timeout, f"{self.name}: {method}: timeout")
        outputs = []
        for command in commands:
            text(command, f"{self.name}: {method}: command")
            completed = self._run(Command(command, timeout=timeout, strict=True))
            outputs.append(text_of(completed.stdout))
            if not accept(completed.status):
                raise self._failed(command, completed, f"to {method}")
        return "".join(outputs)

    def _look_at(self, command: str) -> str:
        """The output of a command that a wait repeats, and which is no event of its own.

        Raises:
            CommandFailed: It did not succeed.
        """
        strict = Command(command, timeout=DEFAULT_TIMEOUT, strict=True)
        completed = self._attempt(self._channel, strict)
        if completed.status != 0:
            raise self._failed(command, completed, "to succeed")
        return text_of(completed.stdout)

    def _failed(self, command: str, ended: GuestCompleted, expected: str) -> CommandFailed:
        console = self._lifecycle.console_evidence()
        return command_failed(self.name, command, ended, expected, console, self.out_dir)

    def _run(self, command: Command, stdin: bytes | None = None) -> GuestCompleted:
        channel = self._channel
        line = _line(command.command).strip()
        with self._events.span(Kind.COMMAND, line, machine=self.name) as span:
            output = Output(self._events, self.name, line)
            completed: GuestCompleted | None = None
            try:
                completed = self._attempt(channel, command, stdin, output)
                span.data["status"] = completed.status
            finally:
                span.data |= output.end(completed)
        return completed

    def _attempt(
        self,
        channel: Channel,
        command: Command,
        stdin: bytes | None = None,
        output: Output | None = None,
    ) -> GuestCompleted:
        with self._lifecycle.explained():
            process = channel.start(replace(command, stdin=bool(stdin)), follower=output)
            wait = process.wait if output is None else partial(output.await_end, process)
            try:
                if stdin:
                    process.feed(stdin)
                with cancellable(process.cancel):
                    return watched(wait)
            except BaseException:
                process.abandon()
                raise

    def _wait_until(
        self,
        command: str,
        timeout: Duration,
        attempt_timeout: Duration | None,
        accept: Callable[[int], bool],
        verb: str,
    ) -> str:
        method = f"{self.name}: wait_until_{verb}s"
        text(command, f"{method}: command")
        timeout = seconds(timeout, f"{method}: timeout")
        longest = limit(attempt_timeout, f"{method}: attempt_timeout")
        channel = self._channel
        with self._events.span(
            Kind.WAIT, f"wait until `{command.strip()}` {verb}s", machine=self.name
        ) as span:
            ended: GuestCompleted | None = None
            for left in tries(timeout):
                strict = Command(command, timeout=_allowed(left, timeout, longest), strict=True)
                output = Output(self._events, self.name, command)
                completed = self._attempt(channel, strict, output=output)
                shown = output.end(completed)
                if accept(completed.status):
                    span.data["stdout"] = shown["stdout"]
                    return text_of(completed.stdout)
                if ended is None or completed.held or not completed.timed_out:
                    ended = completed  # one that is cut off by the limit tells nothing
            assert ended is not None
            last = last_lines(text_of(ended.stdout) + text_of(ended.stderr))
            what = f"`{shown_command(command)}` did not {verb} in {timeout:g} s"
            raise self._wait_failed(f"{what}: {verdict(ended)}", {"last output": last})


def _allowed(left: float, timeout: float, longest: float | None) -> float:
    """Seconds for one attempt of a wait; one that has no time makes one, too."""
    allowed = left if timeout else DEFAULT_TIMEOUT
    return max(allowed if longest is None else min(allowed, longest), 0.001)


def _line(command: str | list[str]) -> str:
    """The command as one line for people; arguments as a shell would take them."""
    return command if isinstance(command, str) else shlex.join(command)


def _drop(piece: bytes) -> None:
    """Take output that nobody wants, and keep nothing of it."""


def _drain(process: Running) -> None:
    """Take what nobody wants to see, so that the command never waits for its output to be read."""
    with suppress(MachineError):
        process.wait()
