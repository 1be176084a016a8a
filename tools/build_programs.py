"""Compile the programs that are in C, static ones for each architecture.

The compiler is the `ziglang` package's, which brings a C library for every target, so that the
host needs no cross compiler. A distribution that compiles them itself names their directory in
`ATTEST_AGENT_DIR`; what it has no binaries for is left out.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ARCHITECTURES", "PROGRAMS", "Program", "build_programs"]

ARCHITECTURES: Final = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Program:
    """A program in C.

    Attributes:
        name: Its name; its binaries have the architecture's behind it.
        source: Its directory in the source tree.
        target: The directory in the source tree that its binaries go to.
        carried: The source of a shared object that it carries, below `source`; empty for none.
    """

    name: str
    source: str
    target: str
    carried: str = ""


PROGRAMS: Final = (
    Program("attest-agent", "agent", "src/attest/guest/agent/bin", carried="bash/fork.c"),
    Program("attest-uffd", "uffd", "src/attest/vmm/firecracker/bin"),
)

_FLAGS: Final = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]


def build_programs(root: Path, architectures: Sequence[str] = ARCHITECTURES) -> None:
    """Bring the binaries in a source tree up to date.

    Args:
        root: The source tree.
        architectures: As ``uname -m`` has them.

    Raises:
        SystemExit: A program cannot be compiled here; the message says why.
    """
    ready = os.environ.get("ATTEST_AGENT_DIR")
    if ready is not None:
        architectures = _offered(Path(ready), architectures)
    for program in PROGRAMS:
        (root / program.target).mkdir(parents=True, exist_ok=True)
        for architecture in architectures:
            output = root / program.target / f"{program.name}-{architecture}"
            if ready is not None:
                shutil.copyfile(Path(ready, output.name), output)
                output.chmod(0o755)
            else:
                _compile(program, root / program.source, architecture, output)


def _offered(ready: Path, architectures: Sequence[str]) -> list[str]:
    """The architectures of which a directory has all programs."""
    offered = [
        architecture
        for architecture in architectures
        if all((ready / f"{program.name}-{architecture}").is_file() for program in PROGRAMS)
    ]
    if not offered:
        names = " and ".join(f"{program.name}-ARCHITECTURE" for program in PROGRAMS)
        raise SystemExit(
            f"ATTEST_AGENT_DIR={ready} has to hold {names} "
            f"for one of these architectures at least: {', '.join(architectures)}"
        )
    return offered


def _compile(program: Program, directory: Path, architecture: str, output: Path) -> None:
    sources = sorted((directory / "src").glob("*.c"))
    if not sources:
        raise SystemExit(f"{directory / 'src'} holds no C files: this source tree is incomplete")
    carried = [directory / program.carried] if program.carried else []
    digest = _digest([*carried, *directory.glob("src/*.[ch]")], architecture)
    stamp = directory / "build" / f"{output.name}.digest"
    if output.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    print(f"compiling {output.name}", flush=True)
    fresh = output.with_suffix(f".{os.getpid()}")
    with tempfile.TemporaryDirectory() as work:
        definitions = [_carry(source, architecture, Path(work)) for source in carried]
        _cc(architecture, *_FLAGS, "-static", "-s", *definitions, *sources, "-o", fresh)
    fresh.rename(output)  # a machine that is just starting must never see half an agent
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(digest)


def _carry(source: Path, architecture: str, work: Path) -> str:
    """Compile a shared object to which nothing is linked; how the program gets its bytes."""
    compiled, linked, listed = work / "object.o", work / "object.so", work / "object.bytes"
    _cc(architecture, *_FLAGS, "-c", "-fPIC", source, "-o", compiled)
    _cc(architecture, "-shared", "-nostdlib", "-s", "-Wl,-z,norelro", compiled, "-o", linked)
    listed.write_text(",".join(map(str, linked.read_bytes())))
    return f'-D{source.stem.upper()}_OBJECT="{listed}"'


def _cc(architecture: str, *arguments: str | Path) -> None:
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl"]
    if subprocess.call([*compiler, *map(str, arguments)]) != 0:
        raise SystemExit(f"{arguments[-1]} does not compile: {' '.join(compiler)} failed")


def _digest(sources: Sequence[Path], architecture: str) -> str:
    digest = hashlib.sha256(" ".join([architecture, *_FLAGS]).encode())
    for file in sorted(sources):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    build_programs(Path(__file__).parents[1], [platform.machine()])
