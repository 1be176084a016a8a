"""How long a user waits: ``attest --version``, ``attest run`` until its first VMM, and its modules.

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

from bench.figures import Figure, environment, series

_COUNT = 15
_OWN = ("attest", "click", "msgspec", "qemu", "rich")
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


def _imports(environment: dict[str, str]) -> dict[str, float]:
    """Seconds that each package's modules take, as ``-X importtime`` says."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import attest.cli.run"],
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
        _first_action(compiled)  # compiles what it imports, and makes the snapshot
        python = series(_COUNT, lambda: _run(["-c", ""], compiled))
        version = series(_COUNT, lambda: _run(["-m", "attest", "--version"], compiled))
        imports = [_imports(compiled) for _ in range(_COUNT)]
        actions = [_first_action(compiled) for _ in range(_COUNT)]
    limit = "python -c ''"
    totals = [sum(each.values()) for each in imports]
    return [
        Figure("attest --version", version, limit, python),
        Figure("attest run, to its first VMM", actions, limit, python),
        *(
            Figure(f"attest run, modules of {name}", [each[name] for each in imports],
                   "all modules", totals)
            for name in imports[0]
        ),
    ]  # fmt: skip
