"""The checkout's own Python environment, `.venv`, with locked versions."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from progress import PipProgress, run

__all__ = ["bring"]


def bring(root: Path, locks: Sequence[str], tell: Callable[[str], None] = lambda _: None) -> None:
    """Make `.venv` in ``root``, or bring it up to date; nothing happens where it already is.

    Args:
        root: The checkout.
        locks: Names of the lock files in `requirements/` whose packages it is to hold.
        tell: Told what takes time.
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
        tell("making the environment")
        _run([sys.executable, "-m", "venv", "--clear", environment])
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar=off"]
    count = sum(file.read_text().count("==") for file in files)
    follow = PipProgress(count, tell).line
    _run([*pip, "--require-hashes", *(f"--requirement={file}" for file in files)], follow)
    tell("compiling the programs in C")
    _run([*pip, "--no-deps", "--no-build-isolation", "--editable", root])
    tell("")
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


def _run(command: Sequence[object], follow: Callable[[str], None] = lambda _: None) -> None:
    words = [str(word) for word in command]
    status, output = run(words, follow, env=os.environ | {"LC_ALL": "C.UTF-8"})
    if status != 0:
        last = "\n".join(output.splitlines()[-12:])
        raise SystemExit(f"{last}\nthis failed: {' '.join(words)}")
