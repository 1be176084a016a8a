"""A VDE switch for each network that machines of start scripts may be on.

It is ``vde_switch`` where that is installed, as with NixOS's driver, else attest's own. Where other
machines are on the network, a tap interface joins it to their bridge.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attest.errors import HostError
from attest.net import helper
from attest.net.bridge import join_switch
from attest.net.cell import Cell

__all__ = ["Switches", "find_vde_switch"]

_LONGEST: Final = 91
"""Bytes of the path of a switch's directory, at most. libvdeplug makes sockets in it, and cuts off
what a socket's address (``sun_path``) does not hold; QEMU then tries to bind to the rest for ever.
"""

# The cell's own; by default, a socket holds ten frames that its owner has not read yet.
_LONG_QUEUES: Final = (
    "sh", "-c", 'echo 512 2>/dev/null >/proc/sys/net/unix/max_dgram_qlen; exec "$@"', "sh",
)  # fmt: skip


def find_vde_switch() -> str | None:
    """The path of the ``vde_switch`` that is installed; None where there is none."""
    return shutil.which("vde_switch")


class Switches:
    """The switches of a cluster; they die with its cell.

    Args:
        cell: Where they live.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._started: set[int] = set()
        self._undo = ExitStack()

    def start(self, vlan: int, directory: Path, *, bridged: bool) -> None:
        """Start the switch of a network; nothing happens when it runs.

        Args:
            vlan: The network's number.
            directory: Where its sockets go; made here.
            bridged: Other machines are on the network.

        Raises:
            HostError: It does not start.
        """
        if vlan in self._started:
            return
        if len(os.fsencode(directory)) > _LONGEST:
            raise HostError(
                f"a network's sockets cannot be in {directory}: their addresses would be too long",
                hint="set TMPDIR to a directory with a shorter path",
            )
        tap = join_switch(self._cell, vlan) if bridged else ""
        if program := find_vde_switch():
            self._start_installed(program, directory, tap)
        else:
            self._start_own(directory, tap)
        self._started.add(vlan)

    def close(self) -> None:
        """Wait until the switches have ended, which they do when their cell is closed."""
        self._undo.close()

    def _start_own(self, directory: Path, tap: str) -> None:
        directory.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "ctl"))
            listener.listen()
            self._run(
                [*helper("vde"), str(listener.fileno()), str(directory),
                 *([tap] if tap else [])],
                pass_fds=[listener.fileno()],
            )  # fmt: skip

    def _start_installed(self, program: str, directory: Path, tap: str) -> None:
        # As a hub it does not look into 802.1Q tags, which tests may use themselves.
        process = self._run(
            [program, "--sock", str(directory), "--dirmode", "0700", "--hub",
             *(["--tap", tap] if tap else [])],
            pass_fds=[],
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"showinfo\n")
        process.stdin.flush()
        while line := process.stdout.readline():
            if b"1000 Success" in line:  # it listens
                return
        raise HostError(f"vde_switch ended with exit code {process.wait()}")

    def _run(self, command: list[str], *, pass_fds: list[int]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._cell.enter([*_LONG_QUEUES, *command]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            pass_fds=pass_fds, start_new_session=True,
        )  # fmt: skip
        self._undo.callback(process.wait)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                self._undo.callback(stream.close)
        return process
