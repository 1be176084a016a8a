"""mypy over a script, against attest's own classes."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from attest.check.finding import Finding
from attest.check.subject import Subject
from attest.errors import HostError
from attest.machine.machine import Machine
from attest.support.paths import cache_dir, mark_used

__all__ = ["type_check"]

_OPTIONS: Final = """\
[mypy]
follow_imports = silent
check_untyped_defs = True
allow_redefinition = True
disable_error_code = import-untyped, var-annotated
native_parser = False
"""
"""Its whole configuration; a user's own is for the user's own code.

Most functions of scripts are untyped, and are checked all the same; those that type nothing may
also use a name again for something else. That a package has no types, or an empty list no type of
its elements, is no mistake.
The native parser, which mypy 2.4 has by default and 1.13 does not know, counts the columns wrong
behind characters that are not ASCII.
"""

_OPTIONAL: Final = r'\| None"|"Optional\[|Item "None"'
"""How mypy names the type of what may be None."""

_FILE: Final = "script.py"
_PRELUDE: Final = 1
"""Lines before the script's own."""


def type_check(subject: Subject) -> list[Finding]:
    """What mypy says of a script.

    Raises:
        HostError: mypy did not work.
    """
    with tempfile.TemporaryDirectory(prefix="attest-check-") as directory:
        Path(directory, "mypy.ini").write_text(_OPTIONS, encoding="utf-8")
        _write(Path(directory, _FILE), f"{subject.prelude}\n{subject.text}".encode())
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mypy", "--config-file=mypy.ini", "--output=json",
             f"--cache-dir={_cache()}", _FILE],
            cwd=directory,
            # It finds the packages that the script finds, however this program found them.
            env={
                **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "MYPYPATH": str(_modules(subject.directory, Path(directory, "beside"))),
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    reports = list(_reports(done.stdout))
    if done.returncode and not reports:
        raise HostError(f"mypy failed:\n{done.stdout}{done.stderr}".rstrip())
    return [
        _finding(subject, report)
        for report in reports
        # mypy 1.13 also shows a method of attest, where a call does not fit it.
        if report["file"] == _FILE and not _refuted(report["message"])
    ]


def _reports(printed: str) -> Iterator[dict[str, Any]]:
    for line in printed.splitlines():
        if line.startswith("{"):
            yield json.loads(line)
        elif end := re.fullmatch(rf"{_FILE}:(\d+): error: (.*)", line):
            # What stops it, mypy before 2.0 says in its other format only.
            yield {
                "file": _FILE, "line": int(end[1]), "column": 0, "message": end[2], "hint": None,
                "code": None, "severity": "error",
            }  # fmt: skip


def _write(path: Path, content: bytes) -> None:
    """Write what mypy is to check, with a time that changes with the content.

    Of a file with the size and the time (in seconds) that one with its name had, mypy says what it
    said then.
    """
    path.write_bytes(content)
    time = zlib.crc32(content)
    os.utime(path, (time, time))


def _modules(beside: Path | None, place: Path) -> Path:
    """Links to the modules that a script finds beside it, where none is one of Python's own."""
    place.mkdir()
    for each in beside.iterdir() if beside else ():
        name = each.name.partition(".")[0]
        is_module = each.is_dir() or each.suffix in (".py", ".pyi")
        if is_module and name.isidentifier() and name not in {*sys.stdlib_module_names, "script"}:
            (place / each.name).symlink_to(each.absolute())
    return place


def _cache() -> str:
    """What mypy remembers of attest's modules; nothing, where that cannot be written."""
    directory = cache_dir() / "mypy"
    own = directory / f"{sys.version_info.major}.{sys.version_info.minor}"  # so mypy calls it
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError:
        return os.devnull
    mark_used(own)
    return str(directory)


def _refuted(message: str) -> bool:
    """Python, which has compiled the script, knows better; mypy goes by the order of the lines."""
    return message.startswith("No binding for nonlocal ")


def _finding(subject: Subject, report: dict[str, Any]) -> Finding:
    line = report["line"] - _PRELUDE
    return Finding(
        line=line,
        column=subject.column(line, report["column"]),
        code=report["code"] or "",
        message=_own_lines(report["message"]) + _maybe(report["message"]),
        notes=tuple(_own_lines(report["hint"] or "").splitlines()),
        severity=_severity(report),
    )


def _severity(report: dict[str, Any]) -> Literal["error", "warning", "note"]:
    """How bad it is: what is right unless something is None, as a match, may be known to be."""
    if report["severity"] != "error":
        return "note"
    text = f"{report['message']} {report['hint'] or ''}"
    is_style = report["code"] == "no-redef" or re.search(_OPTIONAL, text)
    return "warning" if is_style else "error"


def _own_lines(message: str) -> str:
    """The message with the script's line numbers, where it refers to another line."""
    return re.sub(r"\bon line (\d+)", lambda found: f"on line {int(found[1]) - _PRELUDE}", message)


def _maybe(message: str) -> str:
    """A method that may be meant; mypy looks for it only in a class itself, not in its bases."""
    if unknown := re.fullmatch(r'"Machine" has no attribute "(\w+)"', message):
        known = [name for name in dir(Machine) if not name.startswith("_")]
        for name in difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.75):
            return f'; maybe "{name}"?'
    return ""
