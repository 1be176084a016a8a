"""Finding a VMM's program on this host, and asking it what it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from attest.errors import HostError

__all__ = ["ask", "locate"]


def locate(wanted: str, variable: str, name: str, releases: str) -> Path:
    """The absolute path of a program.

    Args:
        wanted: Its path or name; empty: what the next two say.
        variable: An environment variable with its path or name, if that is set.
        name: Else its name on PATH.
        releases: The address from which one can get it.

    Raises:
        HostError: There is none.
    """
    wanted = wanted or os.environ.get(variable) or name
    found = shutil.which(wanted)
    if found is None:
        raise HostError(
            f"`{wanted}` was not found",
            hint=f"get it from {releases}, and put it on PATH or its path into {variable}",
        )
    return Path(found).absolute()


def ask(path: Path, option: str, pattern: str) -> re.Match[str]:
    """What a program prints when it is given an option.

    Raises:
        HostError: It does not print what the pattern finds.
    """
    try:
        result = subprocess.run([path, option], capture_output=True, text=True, check=False)
    except OSError as error:  # such as that of a file for another architecture
        raise _failed(path, option, error.strerror) from None
    match = re.search(pattern, result.stdout)
    if match is None:
        raise _failed(path, option, (result.stderr or result.stdout).strip())
    return match


def _failed(path: Path, option: str, why: str | None) -> HostError:
    return HostError(
        f"{path} {option} failed: {why}", hint="it has to be the VMM, for this architecture"
    )
