"""A script that is run again and again in one cluster, each time as it is on disk by then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from attest.cluster.checkpoint import Checkpoint
from attest.cluster.cluster import Cluster
from attest.errors import MachineError
from attest.report.first_answer import first_answer
from attest.script.modules import forget_imported
from attest.script.run import ScriptRun

__all__ = ["Repeatable"]


class Repeatable:
    """A script with the machines as they were before it first ran.

    Args:
        cluster: The machines.
        script: The script.
        load: Reads it anew.
        names: Gives its global names, of the machines as they are.
    """

    def __init__(
        self,
        cluster: Cluster,
        script: ScriptRun,
        load: Callable[[], None],
        names: Callable[[], dict[str, Any]],
    ) -> None:
        self._cluster = cluster
        self._script = script
        self._load = load
        self._names = names
        self._before: Checkpoint | None = None
        self._refusal: MachineError | None = None

    def run(self, names: dict[str, Any]) -> None:
        """Run the script with these global names; the first time, keep how the machines are.

        Raises:
            Exception: What the script raises.
        """
        if self._before is None and self._refusal is None:
            try:
                self._before = self._cluster.checkpoint("before the script")
            except MachineError as error:  # the script can run all the same
                self._refusal = error
        self._script.run(names)

    def again(self) -> None:
        """Run the script as it is on disk now, with the machines as they were before it first ran.

        Modules of one's own that it imports are read anew, too.

        Raises:
            UsageError: The script cannot be read, or is no Python.
            MachineError: A machine could not be saved before, or did not come back.
            Exception: What the script raises.
        """
        begun = time.time()
        if self._refusal is not None:
            raise self._refusal.fresh_copy()
        self._load()
        if self._before is not None:
            self._cluster.rewind(self._before)
        forget_imported()
        with first_answer(self._cluster.events) as answer:
            try:
                self.run(self._names())
            finally:
                if line := answer.line(begun, "again"):
                    print(line, file=sys.stderr)
