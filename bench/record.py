"""What a benchmark's figures are worth: the machine and the versions that they are of."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from attest import __version__
from attest.vmm.qemu.binary import find_qemu

__all__ = ["host", "write"]


def host(accelerator: str = "tcg") -> dict[str, Any]:
    """The machine, the versions of all that matters, and how busy the machine is."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in processors if line.startswith("model name")), ":unknown")
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "attest": __version__,
        "commit": _commit(),
        "qemu": str(find_qemu()),
        "accelerator": accelerator,
        "load": os.getloadavg()[0],
    }


def write(
    path: Path, figures: dict[str, Any], ratios: dict[str, float], accelerator: str = "tcg"
) -> None:
    """Write a record that `bench.compare` reads.

    Args:
        path: The file.
        figures: What was measured, for people; anything that JSON has.
        ratios: What is comparable between machines, each by its name.
        accelerator: Of the machines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"host": host(accelerator), "ratios": ratios, "figures": figures}
    path.write_text(json.dumps(record, indent=1) + "\n")


def _commit() -> str:
    if shutil.which("git") is None:
        return ""
    command = ["git", "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip()
