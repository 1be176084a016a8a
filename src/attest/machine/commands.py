"""Commands in a machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from attest.errors import CommandFailed, MachineError, WaitFailed
from attest.events import Kind
from attest.guest.channel import Channel, Command, Completed, Running
from attest.machine.conditions import watched
from attest.machine.power import Power
from attest.support.cancellation import cancellable
from attest.support.polling import DEFAULT_TIMEOUT, tries
from attest.support.text import plain_text

__all__ = ["Commands"]

_SHOWN_OUTPUT: Final = 16_384
"""Characters of a command's output that go into the events; the test itself gets all of it."""


class RootShell:
    """What scripts take for the socket of a root shell; each `send` is a command of its own."""

    def __init__(self, machine: Commands) -> None:
        self._machine = machine

    def send(self, data: bytes) -> int:
        """Run lines of bash and wait for nothing; return how many bytes they were."""
        self._machine.execute(data.decode(), check_output=False)
        return len(data)


class Commands(Power):
    """Commands, each run by bash."""

    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> tuple[int, str]:
        """Run a command with bash in ``/tmp``, under ``set -euo pipefail``.

        Returns:
            Exit code and standard output. 124 when ``timeout`` seconds have passed; ``(-1,
            output)`` without ``check_return``; ``(-2, "")`` at once, with the command still
            running, without ``check_output``.
        """
        if not check_output:
            channel = self._channel
            self._events.emit(Kind.COMMAND, f"start: {command.strip()}", machine=self.name)
            process = channel.start(
                Command(command, timeout=timeout, strict=True), stdout=_drop, stderr=_drop
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
    ) -> Running:
        """Start a command and return it running.

        Args:
            command: For bash, as with `execute`, but without ``set -euo pipefail``.
            user: Who runs it; default root.
            env: Added to its environment.
            stdin: Its standard input is to be written.
            pty: Rows and columns of a terminal for it.
        """
        channel = self._channel
        self._events.emit(Kind.COMMAND, f"start: {command}", machine=self.name)
        return channel.start(Command(command, user=user, env=env, stdin=stdin, pty=pty))

    @property
    def shell(self) -> RootShell:
        """A root shell, for what nobody waits for."""
        return RootShell(self)

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
                raise self._failed(command, completed, expected)
        return "".join(outputs)

    def _look_at(self, command: str) -> str:
        """The output of a command that a wait repeats, and which is no event of its own.

        Raises:
            CommandFailed: It did not succeed.
        """
        completed = self._attempt(self._channel, command, DEFAULT_TIMEOUT)
        if completed.status != 0:
            raise self._failed(command, completed, "to succeed")
        return _text(completed.stdout)

    def _failed(self, command: str, completed: Completed, expected: str) -> CommandFailed:
        return CommandFailed(
            self.name, command, completed.status, _text(completed.stdout), _text(completed.stderr),
            expected=expected,
        )  # fmt: skip

    def _run(self, command: str, timeout: float | None) -> Completed:
        channel = self._channel
        with self._events.span(Kind.COMMAND, command.strip(), machine=self.name) as span:
            completed = self._attempt(channel, command, timeout)
            span.data |= {
                "status": completed.status,
                "stdout": _shown(completed.stdout),
                "stderr": _shown(completed.stderr),
            }
        return completed

    def _attempt(self, channel: Channel, command: str, timeout: float | None) -> Completed:
        with self._lifecycle.explained():
            process = channel.start(Command(command, timeout=timeout, strict=True))
            try:
                with cancellable(process.cancel):
                    return watched(process.wait)
            except BaseException:
                process.abandon()
                raise

    def _wait_until(
        self, command: str, timeout: float, accept: Callable[[int], bool], verb: str
    ) -> str:
        channel = self._channel
        with self._events.span(
            Kind.WAIT, f"wait until `{command.strip()}` {verb}s", machine=self.name
        ) as span:
            ended: Completed | None = None
            for left in tries(timeout):
                completed = self._attempt(channel, command, max(left, 0.001))
                if accept(completed.status):
                    span.data["stdout"] = _shown(completed.stdout)
                    return _text(completed.stdout)
                if ended is None or not completed.timed_out:
                    ended = completed  # one that is cut off by the limit tells nothing
            assert ended is not None
            last = f"{_text(ended.stdout)}{_text(ended.stderr)}".strip()
            raise WaitFailed(
                self.name,
                f"`{command}` did not {verb} in {timeout:g} s: exit code {ended.status}"
                + (f", last output:\n{last}" if last else ""),
            )


def _drop(piece: bytes) -> None:
    """A sink that keeps nothing."""


def _drain(process: Running) -> None:
    """Take what nobody wants to see, so that the command never waits for its output to be read."""
    with suppress(MachineError):
        process.wait()


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def _shown(output: bytes) -> str:
    text = plain_text(_text(output[: 4 * _SHOWN_OUTPUT]))
    return text if len(text) <= _SHOWN_OUTPUT else f"{text[:_SHOWN_OUTPUT]}\n[…]"
