"""How long a user waits: ``attest --version``, steps of ``attest run``, and its modules.

Usage: ``python -m bench.micro start``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.figures import Figure, environment, series

_COUNT = 15
_OWN = ("attest", "click", "msgspec", "qemu", "rich")
_MANIFEST = Path(__file__).parents[1] / "examples" / "tiny" / "test.toml"


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)


# The command `attest`, which writes down when its first VMM is forked.
_ATTEST = """
import os, sys, time

def look(event, arguments):
    if event == "subprocess.Popen" and "-name" in arguments[1]:
        with open(os.environ["FORKED"], "w") as file:
            print(time.time(), file=file)

sys.addaudithook(look)
from attest.cli import main
main()
"""


def _steps(environment: dict[str, str]) -> dict[str, float]:
    """Seconds from the start of the process until each step of a run with one command is done.

    Its first VMM is there when it has loaded its snapshot.
    """
    with tempfile.TemporaryDirectory() as out:
        forked = Path(out, "forked")
        begun = time.time()
        subprocess.run(
            [sys.executable, "-c", _ATTEST, "run", "--accel", "tcg", "-o", out, str(_MANIFEST)],
            env={**environment, "FORKED": str(forked)}, check=True, capture_output=True,
        )  # fmt: skip
        lines = Path(out, "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        begins = next(event["data"]["started"] for event in events if event["kind"] == "run")
        return {
            "the fork of its first VMM": float(forked.read_text()) - begun,
            "its first VMM": begins - begun + _time(events, "stage"),
            "its first answer": begins - begun + _time(events, "command", phase="end"),
        }


def _time(events: list[dict[str, Any]], kind: str, **wanted: str) -> float:
    """When the first such event came, in seconds since the run has begun."""
    return next(
        float(event["time"])
        for event in events
        if event["kind"] == kind and all(event.get(key) == wanted[key] for key in wanted)
    )


def _imports(environment: dict[str, str]) -> dict[str, float]:
    """Seconds that each package's modules take, as ``-X importtime`` says."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import attest.cli.run, attest.cli.testing"],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds: defaultdict[str, float] = defaultdict(float)
    for line in done.stderr.splitlines()[1:]:  # after the header
        own, _, name = line.removeprefix("import time:").split("|")
        package = name.strip().partition(".")[0]
        seconds[package if package in _OWN else "the standard library"] += int(own) / 1e6
    return seconds


def figures() -> list[Figure]:
    """Of the whole command, held to a Python that does nothing."""
    with tempfile.TemporaryDirectory() as directory:
        compiled = environment(Path(directory))
        _steps(compiled)  # compiles what it imports, and makes the snapshot
        python = series(_COUNT, lambda: _run(["-c", ""], compiled))
        version = series(_COUNT, lambda: _run(["-m", "attest", "--version"], compiled))
        imports = [_imports(compiled) for _ in range(_COUNT)]
        steps = [_steps(compiled) for _ in range(_COUNT)]
    limit = "python -c ''"
    totals = [sum(each.values()) for each in imports]
    return [
        Figure("attest --version", version, limit, python),
        *(
            Figure(f"attest run, to {name}", [each[name] for each in steps], limit, python)
            for name in steps[0]
        ),
        *(
            Figure(f"attest run, modules of {name}", [each[name] for each in imports],
                   "all modules", totals)
            for name in imports[0]
        ),
    ]  # fmt: skip
