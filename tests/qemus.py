"""The QEMUs that tests can use: the one of all tests, and those that `make setup` has unpacked."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Final

from attest.support.paths import cache_dir
from attest.vmm.qemu.binary import find_qemu

__all__ = ["OTHERS", "UNPACKED"]

_NAME: Final = f"qemu-system-{platform.machine()}"

UNPACKED: Final = sorted(cache_dir().glob(f"qemu/*/bin/{_NAME}"))
"""Those beside the installed one; the name of each one's directory is its version."""


def _others() -> list[Path]:
    installed = shutil.which(_NAME)
    there = [*UNPACKED, *([Path(installed)] if installed else [])]
    return [each for each in there if find_qemu(str(each)).version != find_qemu().version]


OTHERS: Final = _others()
"""Those of other versions than the one that tests use by themselves."""
