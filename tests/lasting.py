"""A guest with a root that lasts, of busybox alone: it boots in a fraction of Debian's time."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.support.user_namespace import program_path

__all__ = ["RECIPE", "describe_small"]

RECIPE: Final = Path(__file__).with_suffix(".toml")

_DIRECTORIES: Final = ("dev", "etc", "proc", "root", "run", "srv", "sys", "tmp")


def describe_small(directory: Path, *, block_size: int = 4096) -> Path:
    """Describe such a guest in a new file in a directory.

    Its root is ext4, with blocks of a size, its initrd attest's, and its init the agent.
    """
    image = ImageStore().build(load_recipe(str(RECIPE)))
    tree = directory / "tree"
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True)
    for path, mode, content in _entries(image.initrd.read_bytes()):
        place = tree / path
        if not path.startswith(("bin/", "sbin/", "usr/")) or stat.S_ISDIR(mode):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(mode):
            place.symlink_to(content.decode())
        else:
            place.write_bytes(content)
            place.chmod(0o755)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    subprocess.run(
        ["mkfs.ext4", "-q", "-b", str(block_size), "-d", tree, directory / "root.ext4", "16M"],
        env={**os.environ, "PATH": program_path()}, check=True,
    )  # fmt: skip
    description = {
        "arch": image.arch, "kernel": str(image.kernel), "vmlinux": str(image.vmlinux),
        "initrd": str(image.initrd), "root": "root.ext4", "init": "agent", "own_initrd": False,
        "cmdline": ["attest.init=/run/attest/attest-agent"],
    }  # fmt: skip
    path = directory / "small.json"
    path.write_text(json.dumps(description))
    return path


def _entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """The name, mode and content of each file of an archive in the kernel's "newc" format."""
    place = 0
    while archive[place : place + 6] == b"070701":
        fields = [int(archive[place + start : place + start + 8], 16) for start in range(6, 110, 8)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[place + 110 : place + 110 + length - 1].decode()
        begin = -(-(place + 110 + length) // 4) * 4
        yield name, mode, archive[begin : begin + size]
        place = -(-(begin + size) // 4) * 4
