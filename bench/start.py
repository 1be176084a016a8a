"""How long a user waits: ``attest --version``, and ``attest run`` until its first VMM.

Usage: ``python -m bench.start [COUNT]``, by default 15 of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import HEADER, environment, row

_MANIFEST = Path(__file__).parents[1] / "examples" / "tiny" / "test.toml"


def _version(environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "attest", "--version"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - begun


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


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as directory:
        compiled = environment(Path(directory))
        _first_action(compiled)
        print(HEADER)
        print(row("attest --version", [_version(compiled) for _ in range(count)]))
        actions = [_first_action(compiled) for _ in range(count)]
        print(row("attest run, to its first VMM", actions))


if __name__ == "__main__":
    main()
