"""`bench.kvm`, in small: each figure is there, of each VMM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench import calls
from bench.answered import EXITS
from bench.kvm import COUNTS, TIMES
from tests.kvm.conftest import Vmm


def test_all_figures_are_counted(vmm: Vmm, tmp_path: Path) -> None:
    assert calls.absence() == ""
    # Exits are told to root alone.
    counts = [name for name in COUNTS if name != "exits" or os.access(EXITS, os.R_OK)]
    record = tmp_path / "kvm.json"
    command = [sys.executable, "-m", "bench.kvm", "--small", "--accel", "kvm", "--vmm", vmm.name]
    done = subprocess.run(
        [*command, f"--out={record}"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    figures = json.loads(record.read_text())["figures"]["vmms"][vmm.name]
    said = [name for name in (*TIMES, *counts) if f"\n{name}  " in done.stdout]
    assert said == [*TIMES, *counts]
    assert [*figures["one"]] == [*TIMES, *counts]
    assert [name for name, value in figures["one"].items() if value <= 0] == ["KiB from disk, VMM"]
    assert [*figures["2 machines, each"]] == counts
