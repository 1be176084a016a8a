"""What a run of attest could leave on its host."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path


class Host:
    """This host, as it was before the runs that are looked for.

    Args:
        scratch: An empty directory for their temporary files.

    Attributes:
        environment: The runs', by which their processes are known.
    """

    def __init__(self, scratch: Path) -> None:
        mark = uuid.uuid4().hex
        self.environment = {**os.environ, "TMPDIR": str(scratch), "ATTEST_TEST_MARK": mark}
        self._mark = f"ATTEST_TEST_MARK={mark}".encode()
        self._scratch = scratch
        self._before = self._shared()

    def left(self) -> list[str]:
        """Processes of the runs, their files, and mounts and interfaces that were not there."""
        processes = [f"process {entry}" for entry in self._processes()]
        files = [f"file {path}" for path in self._scratch.glob("*/*")]
        return processes + files + sorted(self._shared() - self._before)

    def await_nothing_left(self, when: str) -> None:
        """The kernel ends a namespace in its own time, some milliseconds after the driver."""
        deadline = time.monotonic() + 30
        while left := self.left():
            assert time.monotonic() < deadline, f"left {when}: {left}"
            time.sleep(0.01)

    def _processes(self) -> list[str]:
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark in environ.read_bytes():
                    found.append((environ.parent / "comm").read_text().strip())
            except OSError:
                continue
        return found

    @staticmethod
    def _shared() -> set[str]:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        links = [link.name for link in Path("/sys/class/net").iterdir()]
        return {*mounts, *links}
