"""A Nix of the tests' own: its store, its state and its settings are in a temporary directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attest.support.paths import cache_dir

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

SETTINGS = """\
build-users-group =
substituters =
experimental-features = nix-command flakes
sandbox = true
sandbox-fallback = false
system-features =
"""

HOST = [
    "/bin/sh=/usr/bin/bash-static", "/usr", "/lib", "/lib64", "/etc/alternatives",
    "/etc/ld.so.cache",
]  # fmt: skip
"""The host's programs, which the derivations use."""


@dataclass(frozen=True)
class Build:
    """What came of a build.

    Attributes:
        out: What it has made; None when it failed.
        log: What it and Nix have said.
    """

    out: Path | None
    log: str

    @property
    def made(self) -> Path:
        """What it has made."""
        assert self.out is not None, self.log
        return self.out


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        value: The expression's value; None when there is none.
        thunks: How much was evaluated.
        log: What Nix has said.
    """

    value: Any
    thunks: int
    log: str

    @property
    def made(self) -> Any:
        """The expression's value."""
        assert self.value is not None, self.log
        return self.value


class Nix:
    """An isolated Nix, which builds in sandboxes.

    Args:
        root: An empty directory for its own.

    Attributes:
        environment: The environment of those who are to use it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "nix.conf").write_text(SETTINGS)
        directories = {"STORE": "store", "STATE": "var", "LOG": "log", "CONF": ""}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NIX_")},
            **{f"NIX_{name}_DIR": str(root / place) for name, place in directories.items()},
        }
        images = (cache_dir() / "images").resolve()
        self._arguments = {
            "attest": f"{sys.executable} -m attest",
            "images": str(images),
        }
        self._lent = [*HOST, sys.base_prefix, sys.prefix, str(ROOT / "src"), str(images)]

    def build(
        self,
        attribute: str,
        *,
        lent: Sequence[str] = ("/dev/net/tun",),
        arguments: Mapping[str, str] | None = None,
    ) -> Build:
        """Build a derivation of ``builds.nix``.

        Args:
            attribute: Its name there.
            lent: What of the host the sandbox has, beside programs.
            arguments: More of the file's arguments.
        """
        paths = [
            path for path in (*self._lent, *lent) if Path(path.partition("=")[2] or path).exists()
        ]
        given = {**self._arguments, **(arguments or {})}
        result = subprocess.run(
            ["nix-build", HERE / "builds.nix", "--attr", attribute, "--no-out-link",
             "--option", "sandbox-paths", " ".join(dict.fromkeys(paths)),
             *(word for name, text in given.items() for word in ("--argstr", name, text))],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        out = Path(result.stdout.strip()) if result.returncode == 0 else None
        return Build(out, result.stderr)

    def evaluate(self, expression: str) -> Evaluation:
        """Evaluate an expression to the end; its value is JSON."""
        stats = self._root / "stats.json"
        result = subprocess.run(
            ["nix-instantiate", "--eval", "--strict", "--json", "--expr", expression],
            env={**self.environment, "NIX_SHOW_STATS": "1", "NIX_SHOW_STATS_PATH": str(stats)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode != 0:
            return Evaluation(None, 0, result.stderr)
        thunks = json.loads(stats.read_text())["nrThunks"]
        return Evaluation(json.loads(result.stdout), thunks, result.stderr)

    def remove(self) -> None:
        """Remove all of it: what is in a store cannot be written."""
        for directory, _, _ in os.walk(self._root):
            os.chmod(directory, 0o700)
        shutil.rmtree(self._root)
