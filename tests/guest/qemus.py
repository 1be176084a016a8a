"""The QEMUs that tests can use: the one of all tests, and those that `make setup` has unpacked."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Final

from attest.support.paths import cache_dir

__all__ = ["OTHERS", "UNPACKED"]

_NAME: Final = f"qemu-system-{platform.machine()}"

UNPACKED: Final = sorted(cache_dir().glob(f"qemu/*/bin/{_NAME}"))
"""Those beside the installed one; the name of each one's directory is its version."""

_HOSTS: Final = [Path(path)] if (path := shutil.which(_NAME)) else []
_USED: Final = Path(os.environ.get("ATTEST_QEMU") or (_HOSTS[0] if _HOSTS else ""))

OTHERS: Final = [each for each in (*UNPACKED, *_HOSTS) if each.resolve() != _USED.resolve()]
"""Those that tests do not use by themselves."""
