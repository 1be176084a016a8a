"""Every error a user can meet, with what to do about it.

    AttestError
    ├── UsageError                bad input: a manifest, a recipe, an option (exit code 2)
    │   ├── ManifestError
    │   └── RecipeError
    ├── HostError                 this host cannot run it (exit code 3)
    │   └── ImageBuildError
    └── TestFailure               the test did not get what it asked for (exit code 1)
        ├── CommandFailed
        ├── MachineError          a machine did not come up, died, or panicked
        │   └── ChannelError      the connection to a machine's agent ended
        ├── WaitFailed            a wait ran into its limit, or cannot be fulfilled any more
        └── ConditionFailed       a polling condition does not hold any more

Each carries the objects it is about; ``str()`` makes the sentence. ``hint`` is the next step,
where there is one.
"""

from __future__ import annotations

__all__ = [
    "AttestError",
    "UsageError",
    "ManifestError",
    "RecipeError",
    "HostError",
    "ImageBuildError",
    "TestFailure",
    "CommandFailed",
    "MachineError",
    "ChannelError",
    "WaitFailed",
    "ConditionFailed",
    "Terminated",
    "reason_of",
]


class AttestError(Exception):
    """The root of attest's errors.

    Args:
        message: One sentence that says what is wrong, with names and values.
        hint: What to do about it, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(AttestError):
    """Bad input from the user: an option, a path, a name."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest that cannot be used. The message names the file and the path in it."""


class RecipeError(UsageError):
    """An image's recipe or description that cannot be used. Names the file and the key in it."""


class HostError(AttestError):
    """This host lacks something that the run needs."""

    exit_code = 3


class ImageBuildError(HostError):
    """An image could not be built.

    Args:
        message: Which step failed.
        command: The failing command line, or an empty string.
        output: Its last output.
        log: Path of the full log, or an empty string.
    """

    def __init__(
        self, message: str, *, command: str = "", output: str = "", log: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.command = command
        self.output = output
        self.log = log

    def __str__(self) -> str:
        parts = [self.message]
        if self.command:
            parts.append(f"  command: {self.command}")
        parts += [f"  | {line}" for line in self.output.splitlines()]
        if self.log:
            parts.append(f"  full log: {self.log}")
        if self.hint:
            parts.append(f"  hint: {self.hint}")
        return "\n".join(parts)


class TestFailure(AttestError):
    """The test did not get what it asked for."""

    __test__ = False  # pytest would collect it by its name


class CommandFailed(TestFailure):
    """A command in a machine ended otherwise than the test required.

    Args:
        machine: The machine's name.
        command: The command as the test gave it.
        status: Exit code; 128 + N after signal N; 124 after its time limit.
        stdout: What it printed.
        stderr: What it printed on standard error.
        expected: What the test required, such as ``"to succeed"``.
    """

    def __init__(
        self,
        machine: str,
        command: str,
        status: int,
        stdout: str = "",
        stderr: str = "",
        *,
        expected: str = "to succeed",
    ) -> None:
        self.machine = machine
        self.command = command
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        verdict = f"exit code {status}"
        if status == 124:
            verdict += " (time limit)"
        super().__init__(f"{machine}: command `{command}` was required {expected}: {verdict}")


class MachineError(TestFailure):
    """A machine did not come up, died, or its kernel panicked.

    Args:
        machine: The machine's name.
        message: What happened, with the stage that was reached.
        console: The machine's last console lines.
        log: Path of its full console log, or an empty string.
        attempts: What was tried, each with its reason for failing.

    Attributes:
        reason: What happened, without the machine's name before it.
    """

    def __init__(
        self,
        machine: str,
        message: str,
        *,
        console: list[str] | None = None,
        log: str = "",
        attempts: list[str] | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(f"{machine}: {message}", hint=hint)
        self.machine = machine
        self.reason = message
        self.console = console or []
        self.log = log
        self.attempts = attempts or []

    def __str__(self) -> str:
        parts = [self.message]
        parts += [f"  tried: {attempt}" for attempt in self.attempts]
        if self.console:
            parts.append("  last console lines:")
            parts += [f"  | {line}" for line in self.console]
        if self.log:
            parts.append(f"  console log: {self.log}")
        if self.hint:
            parts.append(f"  hint: {self.hint}")
        return "\n".join(parts)


class ChannelError(MachineError):
    """The connection to a machine's agent ended, or the agent broke the protocol.

    Attributes:
        silent: It has never been heard of on that connection; another one may reach it.
    """

    silent = False


class WaitFailed(TestFailure):
    """A wait ran into its time limit, or what it waits for cannot come any more.

    Args:
        machine: The machine's name.
        message: What was waited for, and what was last seen.
        state: What is known of the subject (for a unit: its properties).
    """

    def __init__(self, machine: str, message: str, *, state: dict[str, str] | None = None) -> None:
        super().__init__(f"{machine}: {message}")
        self.machine = machine
        self.state = state or {}


class ConditionFailed(TestFailure):
    """What was to hold during a part of the test does not."""


class Terminated(SystemExit):
    """SIGTERM has come, and ends the program in order; no error of the test's or the user's."""

    def __init__(self) -> None:
        super().__init__(143)

    def __str__(self) -> str:
        return "terminated"


def reason_of(error: BaseException) -> str:
    """What went wrong, as a part of another message: never empty.

    It is the error's own sentence, of a machine's without the machine's name; of one without any
    text, such as a `TimeoutError`, the name of its type.
    """
    if isinstance(error, MachineError):
        return error.reason
    if isinstance(error, AttestError):
        return error.message
    return str(error) or type(error).__name__
