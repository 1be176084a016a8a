"""Whole runs of tests as processes: how long they take, and what of the processor.

Attest's own runs have a cache of the benchmark's, so that it can be emptied. The processor's time
counts the driver and all VMMs, and is steadier than the wall clock where others use the machine,
too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.machine.instance_states import Stage
from attest.manifest import load_manifest
from attest.support.paths import cache_dir
from bench import steps
from bench.figures import environment

__all__ = ["Home", "Run", "build_images", "home", "timed"]


@dataclass(frozen=True)
class Run:
    """One run of a test, in seconds.

    Attributes:
        wall: From the start of the process to its end.
        cpu: The processor's time.
        events: What attest's journal has; times count from the start of the process.
        steps: The steps of attest's start, likewise.
        begun: When it was started, in seconds of the epoch.
    """

    wall: float
    cpu: float
    events: list[dict[str, Any]] = field(default_factory=list)
    steps: list[steps.Step] = field(default_factory=list)
    begun: float = 0.0

    @property
    def ready(self) -> float:
        """When the last machine was ready."""
        return max((event["time"] for event in self.stages(Stage.READY)), default=0.0)

    def stages(self, stage: Stage) -> list[dict[str, Any]]:
        """The events of machines that reached a stage."""
        return [each for each in self.events if each["kind"] == "stage" and each["text"] == stage]


def timed(command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> Run:
    """Run a command, and exit with what it said if it fails; what it leaves running is ended."""
    with tempfile.TemporaryFile() as said:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        wall = time.monotonic() - begun
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"{' '.join(command)}\n{said.read().decode(errors='replace')}")
    return Run(wall, usage.ru_utime + usage.ru_stime)


class Home:
    """A cache of the benchmark's own, with the user's images in it.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "attest").mkdir()
        (path / "attest" / "images").symlink_to(cache_dir() / "images")

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that shall use it."""
        return environment(self.path) | {"XDG_CACHE_HOME": str(self.path)}

    def forget_snapshots(self) -> None:
        """Let the next run be the first."""
        shutil.rmtree(self.path / "attest" / "snapshots", ignore_errors=True)

    def attest(self, manifest: Path, *options: str, accelerator: str = "tcg") -> Run:
        """``attest run``."""
        with tempfile.TemporaryDirectory() as out:
            written = Path(out, "steps")
            begun, clock = time.time(), time.monotonic()
            run = timed(
                [sys.executable, "-m", "bench.steps", str(written), "run", "--accel", accelerator,
                 "-o", out, *options, str(manifest)],
                self.environment,
            )  # fmt: skip
            return Run(
                run.wall, run.cpu, _events(Path(out, "events.jsonl"), begun),
                [each._replace(begin=each.begin - clock, end=each.end - clock)
                 for each in steps.read(written)],
                begun,
            )  # fmt: skip


@contextmanager
def home() -> Iterator[Home]:
    """A home that goes when it is not needed any more; on the disk, as the user's is."""
    with tempfile.TemporaryDirectory(dir=cache_dir()) as directory:
        yield Home(Path(directory))


def build_images(manifest: Path) -> None:
    """Build what a test's machines are made of."""
    test = load_manifest(manifest)
    for image in {node.image for node in test.nodes.values()}:
        ImageStore().build(load_recipe(image, relative_to=Path(test.directory)), progress=print)


def _events(journal: Path, begun: float) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    started = next(event["data"]["started"] for event in events if event["kind"] == "run")
    return [event | {"time": started - begun + event["time"]} for event in events]
