"""A VMM's program on this host: finding it, and asking it which it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import msgspec

from attest.errors import HostError
from attest.vmm.answers import Program, recall, remember

__all__ = ["Binary", "ask", "ask_version", "locate", "require_version"]


class Binary(msgspec.Struct, frozen=True):
    """A VMM's program that was found; its text names it with version and path.

    Attributes:
        path: The executable.
        version: Its numbers, the major one first.
        title: What texts call the VMM.
        tested: Major and minor numbers of the versions that were tested; none: there is no need.
    """

    title: ClassVar[str]
    tested: ClassVar[tuple[tuple[int, ...], ...]] = ()

    path: Path
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.title} {_dotted(self.version)} ({self.path})"

    @property
    def identity(self) -> str:
        """Text that is another one where this is a program that makes other snapshots."""
        status = self.path.stat()
        return f"{self} {status.st_size} {status.st_mtime_ns}"

    @property
    def opens_read_only(self) -> bool:
        """It maps a saved memory that it may not write; else it opens it for writing."""
        return False

    def doubt(self, kernel: str) -> str:
        """What its user should know of it with this guest kernel's version; mostly nothing.

        Args:
            kernel: The version; empty: whichever it is.
        """
        if not self.tested or self.version[:2] in self.tested:
            return ""
        tested = " and ".join(map(_dotted, self.tested))
        have = "have" if len(self.tested) > 1 else "has"
        return f"{self} has not been tested with attest: {tested} {have}"

    def unfit(self, kernel: str) -> str:
        """Why guests with this kernel's version do not survive a snapshot; empty: they do."""
        return ""


def locate(wanted: str, variable: str, name: str, hint: str) -> Path:
    """The absolute path of a program.

    Args:
        wanted: Its path or name; empty: what the next two say.
        variable: An environment variable with its path or name, if that is set.
        name: Else its name on PATH.
        hint: How to get it.

    Raises:
        HostError: There is none.
    """
    wanted = wanted or os.environ.get(variable) or name
    found = shutil.which(wanted)
    if found is None:
        raise HostError(f"`{wanted}` was not found", hint=hint)
    return Path(found).absolute()


def ask_version(path: Path, pattern: str) -> tuple[int, ...]:
    """The numbers, one for each group of the pattern, that ``--version`` prints.

    Raises:
        HostError: It does not print what the pattern finds.
    """
    return tuple(int(number) for number in ask(path, "--version", pattern).groups())


def ask(path: Path, option: str, pattern: str) -> re.Match[str]:
    """What a program prints, or has printed before, when it is given an option.

    Raises:
        HostError: It does not print what the pattern finds.
    """
    program = Program.at(path)  # as it is before it is asked: it may be replaced meanwhile
    if program and (match := re.search(pattern, recall(program, option) or "")):
        return match
    try:
        result = subprocess.run([path, option], capture_output=True, text=True, check=False)
    except OSError as error:  # such as that of a file for another architecture
        raise _failed(path, option, error.strerror) from None
    match = re.search(pattern, result.stdout)
    if match is None:
        raise _failed(path, option, (result.stderr or result.stdout).strip())
    if program:
        remember(program, option, result.stdout)
    return match


def require_version(binary: Binary, oldest: tuple[int, ...], hint: str = "") -> None:
    """Require that a program is not too old.

    Args:
        binary: The program.
        oldest: The oldest version that works.
        hint: How to get a newer one, if there is more to say.

    Raises:
        HostError: It is older.
    """
    if binary.version < oldest:
        text = f"{binary} is too old: {_dotted(oldest)} is the oldest that works"
        raise HostError(text, hint=hint)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _failed(path: Path, option: str, why: str | None) -> HostError:
    return HostError(
        f"{path} {option} failed: {why}", hint="it has to be the VMM, for this architecture"
    )
