"""The checkout's own Python environment, `.venv`, with locked versions."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["bring"]


def bring(root: Path, locks: Sequence[str]) -> None:
    """Make `.venv` in ``root``, or bring it up to date; nothing happens where it already is.

    Args:
        root: The checkout.
        locks: Names of the lock files in `requirements/` whose packages it is to hold.
    """
    environment = root / ".venv"
    files = [root / "requirements" / f"{name}.txt" for name in locks]
    record = environment / f"locks-{'-'.join(locks)}"
    wanted = _digest([*files, root / "pyproject.toml", root / "hatch_build.py"])
    usable = _usable(environment)
    if usable and record.exists() and record.read_text() == wanted:
        return
    print(f"installing Python packages into {environment}, compiling the agent", flush=True)
    python = environment / "bin/python"
    if not usable:
        _run([sys.executable, "-m", "venv", "--clear", environment])
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run([*pip, "--require-hashes", *(f"--requirement={file}" for file in files)])
    _run([*pip, "--no-deps", "--no-build-isolation", "--editable", root])
    record.write_text(wanted)


def _usable(environment: Path) -> bool:
    """It is whole, its interpreter is still there, and it has not been moved since it was made."""
    try:
        config = (environment / "pyvenv.cfg").read_text()
    except FileNotFoundError:
        return False
    return f"--clear {environment}\n" in config and (environment / "bin/python").exists()


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _run(command: Sequence[object]) -> None:
    words = [str(word) for word in command]
    status = subprocess.call(
        words, stdin=subprocess.DEVNULL, env=os.environ | {"LC_ALL": "C.UTF-8"}
    )
    if status != 0:
        raise SystemExit(f"this failed: {' '.join(words)}")
