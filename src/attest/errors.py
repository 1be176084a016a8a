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

Each carries the objects it is about. ``message`` is one sentence; ``str()``, which a traceback
shows, adds what else tells why: a command's output, a machine's last console lines. ``hint`` is the
next step, where there is one. All can be pickled, as test runners with several processes need it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

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
    "host_error",
    "is_success",
    "message_of",
    "reason_of",
]


_E = TypeVar("_E", bound="AttestError")

_PLACES: Final = "images and snapshots are in XDG_CACHE_HOME, what machines write is in TMPDIR"

_LACKS: Final = {
    errno.ENOSPC: _PLACES, errno.EDQUOT: _PLACES, errno.EROFS: _PLACES, errno.ENOENT: _PLACES,
    errno.ENOTDIR: _PLACES, errno.EACCES: _PLACES, errno.EPERM: _PLACES, errno.EIO: "",
    errno.EMFILE: "`ulimit -n` is how many files may be open", errno.ENFILE: "", errno.ENOMEM: "",
}  # fmt: skip
"""What a host may lack for any call to work, and what to do about it."""


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
        hint = [f"  hint: {self.hint}"] if self.hint else []
        return "\n".join([self.message, *self._details(), *hint])

    def __reduce__(self) -> tuple[Any, ...]:
        # That of `Exception` would call the class with the message alone.
        return _without_init, (type(self), self.args), self.__dict__

    def fresh_copy(self) -> Self:
        """The same error, raised nowhere yet.

        What is raised by several callers is a copy for each: one object would tell each of them
        where all have met it.
        """
        fresh = _without_init(type(self), self.args)
        fresh.__dict__ |= self.__dict__
        fresh.__cause__, fresh.__context__ = self.__cause__, self.__context__
        fresh.__suppress_context__ = self.__suppress_context__  # which setting a cause changes
        if notes := self.__dict__.get("__notes__"):
            fresh.__notes__ = list(notes)
        return fresh

    def _details(self) -> list[str]:
        """The lines between the message and the hint."""
        return []


class UsageError(AttestError):
    """Bad input from the user: an option, a path, a name."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest that cannot be used. The message names the file and the path in it."""


class RecipeError(UsageError):
    """An image's recipe or description that cannot be used. Names the file and the key in it."""


class HostError(AttestError):
    """This host lacks something that the test needs: a program, a right, a kernel's feature."""

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

    def _details(self) -> list[str]:
        command = [f"  command: {self.command}"] if self.command else []
        log = [f"  full log: {self.log}"] if self.log else []
        return [*command, *_quoted(self.output.splitlines()), *log]


class TestFailure(AttestError):
    """The test did not get what it asked for.

    Args:
        message: One sentence that says what is wrong, with names and values.
        hint: What to do about it, or an empty string.
        evidence: Lines that tell more, by what they are, such as ``"stderr"``. Whoever makes the
            error keeps them few, and free of control sequences.
    """

    __test__ = False  # pytest would collect it by its name

    def __init__(
        self, message: str, *, hint: str = "", evidence: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.evidence = dict(evidence or {})

    def _details(self) -> list[str]:
        return _sections(self.evidence)


class CommandFailed(TestFailure):
    """A command in a machine ended otherwise than the test required.

    Args:
        machine: The machine's name.
        command: The command as the test gave it.
        status: Exit code; 128 + N after signal N; 124 after its time limit.
        stdout: All that it printed.
        stderr: All that it printed on standard error.
        expected: What the test required, such as ``"to succeed"``.
        message: The sentence without the machine, where there is more to say.
        evidence: The last lines of both and of the machine's console, for ``str()``.
        log: Path of a file with all of it, where that shows only a part; or an empty string.
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
        message: str = "",
        evidence: Mapping[str, Sequence[str]] | None = None,
        log: str = "",
        hint: str = "",
    ) -> None:
        self.machine = machine
        self.command = command
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.log = log
        message = message or f"command `{command}` was required {expected}: exit code {status}"
        super().__init__(f"{machine}: {message}", hint=hint, evidence=evidence)

    def _details(self) -> list[str]:
        log = [f"  all that it printed: {self.log}"] if self.log else []
        return [*super()._details(), *log]


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

    def _details(self) -> list[str]:
        attempts = [f"  tried: {attempt}" for attempt in self.attempts]
        console = _sections({f"last console lines of {self.machine}": self.console})
        log = [f"  console log: {self.log}"] if self.log else []
        return [*attempts, *console, *log]


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
        evidence: What was last seen, such as a unit's journal and the machine's console, for
            ``str()``.
    """

    def __init__(
        self,
        machine: str,
        message: str,
        *,
        state: dict[str, str] | None = None,
        evidence: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(f"{machine}: {message}", evidence=evidence)
        self.machine = machine
        self.state = state or {}


class ConditionFailed(TestFailure):
    """A polling condition does not hold, in the part of the test in which it has to."""


class Terminated(SystemExit):
    """SIGTERM has come, and ends the program in order; no error of the test's or the user's."""

    def __init__(self) -> None:
        super().__init__(143)

    def __str__(self) -> str:
        return "terminated"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), self.__dict__


def host_error(error: OSError) -> HostError | None:
    """What this host lacks, where that is why a call failed; None: it may be attest's mistake."""
    if error.errno not in _LACKS:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return HostError(f"{where}{error.strerror}", hint=_LACKS[error.errno])


def is_success(error: BaseException) -> bool:
    """Whether a script has ended itself well, as with ``sys.exit(0)``."""
    return isinstance(error, SystemExit) and error.code in (None, 0)


def message_of(error: BaseException) -> str:
    """What went wrong, in one sentence: never empty.

    It is the error's own sentence, without its evidence and its hint; of one without any text, such
    as a `TimeoutError`, the name of its type.
    """
    if isinstance(error, AttestError):
        return error.message
    return str(error) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """What went wrong, as a part of another message about the same machine.

    It is what `message_of` says, of a machine's error without the machine's name.
    """
    return error.reason if isinstance(error, MachineError) else message_of(error)


def _without_init(kind: type[_E], args: tuple[object, ...]) -> _E:
    return kind.__new__(kind, *args)


def _sections(evidence: Mapping[str, Sequence[str]]) -> list[str]:
    found = {title: lines for title, lines in evidence.items() if lines}
    return [line for title in found for line in (f"  {title}:", *_quoted(found[title]))]


def _quoted(lines: Iterable[str]) -> list[str]:
    return [f"  | {line}" for line in lines]
