"""The wheel's build hook: it carries the programs that are in C, for every architecture."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from build_programs import ARCHITECTURES, PROGRAMS, build_programs

# One version, so that the same sources make the same binaries; the lock files have it too.
COMPILER = "ziglang==0.17.1"


class ProgramsHook(BuildHookInterface[Any]):
    """Compile the programs before the wheel, or the editable installation, is made."""

    def dependencies(self) -> list[str]:
        """The compiler, unless the programs were compiled elsewhere."""
        return [] if "ATTEST_AGENT_DIR" in os.environ else [COMPILER]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the result, which Git ignores, to the wheel."""
        # The first compilation for an architecture compiles a C library too, which takes a minute:
        # a checkout, which runs machines of this host's architecture, need not spend it twice.
        mine = [platform.machine()] if version == "editable" else ARCHITECTURES
        build_programs(Path(self.root), mine)
        build_data["artifacts"] += [f"/{each.target}/{each.name}-*" for each in PROGRAMS]
