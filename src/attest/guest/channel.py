"""What a machine needs of its connection into the guest, whoever answers there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from attest.guest.process import Completed, Sink
from attest.guest.protocol import WaitKind, Welcome

__all__ = ["Channel"]


class Channel(Protocol):
    """A connection into a guest. Methods can be called from several threads at once.

    All of them raise `attest.errors.ChannelError` when the connection ends meanwhile.
    """

    def connect(self, timeout: float) -> Welcome:
        """Wait, at most ``timeout`` seconds, until the guest answers."""

    def run(
        self,
        command: str | list[str],
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | BinaryIO | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        wait_for_output: bool = True,
    ) -> Completed:
        """Run a command to its end."""

    def wait_for(
        self,
        kind: WaitKind,
        subject: str,
        *,
        timeout: float,
        port: int | None = None,
        wanted: str | None = None,
        datagram: bool = False,
    ) -> str:
        """Wait until something is so, and return what was seen."""

    def put(self, source: Path, target: str) -> list[str]:
        """Copy a file or a tree into the guest, and return what was left out."""

    def get(self, source: str, target: Path) -> list[str]:
        """Copy a file or a tree out of the guest, and return what was left out."""

    def close(self) -> None:
        """End the connection and everything under way on it."""
