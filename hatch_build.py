"""The wheel's build hook: it carries the guest agent for every guest architecture."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from build_agent import ARCHITECTURES, build_agents

# One version, so that the same sources make the same agent; the lock files have it too.
COMPILER = "ziglang==0.17.1"


class AgentHook(BuildHookInterface[Any]):
    """Compile the agent before the wheel, or the editable installation, is made."""

    def dependencies(self) -> list[str]:
        """The compiler, unless the agent was compiled elsewhere."""
        return [] if "ATTEST_AGENT_DIR" in os.environ else [COMPILER]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the result, which Git ignores, to the wheel."""
        # The first compilation for an architecture compiles a C library too, which takes a minute:
        # a checkout, which runs machines of this host's architecture, need not spend it twice.
        mine = [platform.machine()] if version == "editable" else ARCHITECTURES
        build_agents(Path(self.root), mine)
        build_data["artifacts"].append("/src/attest/guest/bin/attest-agent-*")
