"""A real agent on this host, and what plays one."""

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Agent:
    """An agent under way on this host."""

    path: Path
    process: subprocess.Popen[bytes]

    def connection(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(self.path))
        except OSError:
            sock.close()
            raise
        return sock


@dataclass
class Peer:
    """What plays the agent where a test must make it misbehave."""

    sock: socket.socket
    received: bytearray

    def read(self, size: int) -> bytes:
        while len(self.received) < size:
            self.received += self.sock.recv(65_536)
        data = bytes(self.received[:size])
        del self.received[:size]
        return data
