"""The QEMUs that tests can use: the one of all tests, and those that `make setup` has unpacked."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

from attest.support.paths import cache_dir

__all__ = ["OTHERS", "UNPACKED"]

_NAME: Final = f"qemu-system-{platform.machine()}"

_USED: Final = shutil.which(os.environ.get("ATTEST_QEMU") or _NAME)

UNPACKED: Final = sorted(cache_dir().glob(f"qemu/*/bin/{_NAME}"))
"""Those beside the installed one; the name of each one's directory is its version."""


def _version(qemu: str | Path) -> str:
    command = [qemu, "--version"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _others() -> list[Path]:
    installed = shutil.which(_NAME)
    there = [*UNPACKED, *([Path(installed)] if installed else [])]
    return [each for each in there if _USED and _version(each) != _version(_USED)]


OTHERS: Final = _others()
"""Those of other versions than the one that tests use by themselves."""
