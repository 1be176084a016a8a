"""Compile the guest agent, a static program for each guest architecture.

The compiler is the `ziglang` package's, which brings a C library for every target, so that the
host needs no cross compiler. A distribution that compiles the agent itself names its directory in
`ATTEST_AGENT_DIR`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["ARCHITECTURES", "build_agents"]

ARCHITECTURES: Final = ("x86_64", "aarch64")

_FLAGS: Final = [
    "-static", "-std=c11", "-D_GNU_SOURCE", "-O2", "-s", "-Wall", "-Wextra", "-Werror",
]  # fmt: skip


def build_agents(root: Path, architectures: Sequence[str] = ARCHITECTURES) -> None:
    """Bring `src/attest/guest/bin/` of a source tree up to date.

    Args:
        root: The source tree.
        architectures: Guests' architectures, as ``uname -m`` has them.

    Raises:
        SystemExit: The agent cannot be compiled here; the message says why.
    """
    target = root / "src/attest/guest/bin"
    target.mkdir(parents=True, exist_ok=True)
    for architecture in architectures:
        output = target / f"attest-agent-{architecture}"
        if ready := os.environ.get("ATTEST_AGENT_DIR"):
            shutil.copyfile(Path(ready, output.name), output)
            output.chmod(0o755)
        else:
            _compile(root, architecture, output)


def _compile(root: Path, architecture: str, output: Path) -> None:
    sources = sorted((root / "agent/src").glob("*.c"))
    if not sources:
        raise SystemExit(f"{root / 'agent/src'} holds no C files: this source tree is incomplete")
    digest = _digest(root / "agent/src", architecture)
    stamp = root / "agent/build" / f"{output.name}.digest"
    if output.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    print(f"compiling the guest agent for {architecture}", flush=True)
    fresh = output.with_suffix(f".{os.getpid()}")
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl"]
    status = subprocess.call([*compiler, *_FLAGS, *map(str, sources), "-o", str(fresh)])
    if status != 0:
        raise SystemExit(f"the guest agent does not compile: {' '.join(compiler)} failed")
    fresh.rename(output)  # a machine that is just starting must never see half an agent
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(digest)


def _digest(source: Path, architecture: str) -> str:
    digest = hashlib.sha256(" ".join([architecture, *_FLAGS]).encode())
    for file in sorted(source.glob("*.[ch]")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    build_agents(Path(__file__).parents[1], [platform.machine()])
