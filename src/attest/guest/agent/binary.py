"""Where the guest agent's binary is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attest.errors import HostError

__all__ = ["agent_binary"]

_PACKAGED: Final = Path(__file__).parent / "bin"
_CHECKOUT: Final = Path(__file__).parents[4] / "agent" / "build"


def agent_binary(arch: str) -> Path:
    """The agent for guests of an architecture.

    Args:
        arch: As ``uname -m`` has it.

    Raises:
        HostError: It is not there.
    """
    for directory in (_PACKAGED, _CHECKOUT):
        if (path := directory / f"attest-agent-{arch}").is_file():
            return path
    raise HostError(f"attest has no agent for {arch}", hint="in a checkout: make agent")
