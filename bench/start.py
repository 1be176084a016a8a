"""How long a user waits: ``attest --version``, and ``attest run`` until its first VMM.

Usage: ``python -m bench.micro start``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, environment, series

_COUNT = 15
_MANIFEST = Path(__file__).parents[1] / "examples" / "tiny" / "test.toml"


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def _first_action(environment: dict[str, str]) -> float:
    """Seconds from the start of the process until its first VMM has been started."""
    with tempfile.TemporaryDirectory() as out:
        begun = time.time()
        subprocess.run(
            [sys.executable, "-m", "attest", "run", "--accel", "tcg", "-o", out, str(_MANIFEST)],
            env=environment, check=True, capture_output=True,
        )  # fmt: skip
        lines = Path(out, "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    started = next(event["data"]["started"] for event in events if event["kind"] == "run")
    vmm = next(event["time"] for event in events if event["kind"] == "stage")
    return float(started - begun + vmm)


def figures() -> list[Figure]:
    """Of the whole command, held to a Python that does nothing."""
    with tempfile.TemporaryDirectory() as directory:
        compiled = environment(Path(directory))
        _first_action(compiled)  # compiles what it imports, and makes the snapshot
        python = series(_COUNT, lambda: _run(["-c", ""], compiled))
        version = series(_COUNT, lambda: _run(["-m", "attest", "--version"], compiled))
        actions = [_first_action(compiled) for _ in range(_COUNT)]
    limit = "python -c ''"
    return [
        Figure("attest --version", version, limit, python),
        Figure("attest run, to its first VMM", actions, limit, python),
    ]
