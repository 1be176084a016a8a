"""Tests that a flake makes: built once, and remembered until a file of the flake changes.

Evaluating a test costs seconds for each of its nodes, so that a run which finds everything as it
was leaves it out. The script may be given as a file of its own, and may change then.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from attest.errors import HostError, UsageError
from attest.support.paths import cache_dir, mark_used

__all__ = ["NixTest", "find_test"]

_NIX: Final = ("nix", "--extra-experimental-features", "nix-command flakes")

_HEAP: Final = 3 << 30
"""Bytes: collecting garbage takes about a third of an evaluation, and with so many none begins."""


class NixTest(msgspec.Struct, frozen=True):
    """A test of a flake that has been built.

    Attributes:
        manifest: Its manifest, which names the script.
        remembered: Whether nothing had to be evaluated.
    """

    manifest: Path
    remembered: bool


def find_test(installable: str, script: Path | None = None) -> NixTest:
    """Build what a test of a flake is made of, if that has not been done.

    Args:
        installable: The test, as Nix has it: ``FLAKE#ATTRIBUTE``.
        script: The script to run instead of the test's own.

    Raises:
        UsageError: It is no test of attest's, or the script cannot be used.
        HostError: There is no Nix, or it failed.
    """
    flake, _, attribute = installable.partition("#")
    if not attribute:
        raise UsageError(
            f"{installable}: expected a flake and a test in it",
            hint="such as `.#checks.SYSTEM.NAME`",
        )
    if script is not None and not (script.suffix == ".py" and script.is_file()):
        raise UsageError(f"--script: expected a Python file, found {script}")
    root = _local(flake)
    place = _place(str(root or flake), attribute)
    place.mkdir(parents=True, exist_ok=True)
    mark_used(place)  # what is removed was also kept from Nix's collector
    now = _fingerprint(root, script) if root else ""
    known = place / "fingerprint"
    remembered = bool(now) and _read(known) == now and (place / "test").exists()
    if not remembered:
        _build(installable, place / "test")
        known.write_text(now)
    return NixTest(_with_script(place, script), remembered)


def _local(flake: str) -> Path | None:
    """The directory of a flake that lies on this host, as Nix finds it: here or above."""
    if re.match(r"[a-z+]+:", flake) and not flake.startswith("path:"):
        return None
    start = Path(flake.removeprefix("path:") or ".").resolve()
    return next((each for each in (start, *start.parents) if (each / "flake.nix").exists()), None)


def _place(flake: str, attribute: str) -> Path:
    digest = hashlib.sha256(json.dumps([flake, attribute]).encode()).hexdigest()
    return cache_dir() / "nix" / digest[:32]


def _fingerprint(root: Path, script: Path | None) -> str:
    """A digest of all files that the flake may read, but for a script that is given apart."""
    apart = script.resolve() if script else None
    digest = hashlib.sha256(repr(apart).encode())
    for path in sorted(_files(root)):
        if path.resolve() != apart:
            status = path.lstat()
            digest.update(repr((path, status.st_mtime_ns, status.st_size, status.st_mode)).encode())
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    """The files of a flake: those that Git knows, as Nix has it, or all where there is no Git."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=False
    ) if shutil.which("git") else None  # fmt: skip
    if listed and listed.returncode == 0:
        paths = (root / name for name in listed.stdout.split("\0") if name)
        yield from (path for path in paths if path.is_symlink() or path.exists())
        return
    for directory, _, names in os.walk(root):
        yield from (Path(directory, name) for name in names)


def _build(installable: str, link: Path) -> None:
    """Build the manifest, at ``link``, and the script, at ``link-1``, safe from Nix's collector."""
    if not shutil.which("nix"):
        raise HostError("there is no Nix on PATH", hint="https://nixos.org/download")
    parts = [f"{installable}.attest.{part}" for part in ("manifest", "script")]
    environment = {"GC_INITIAL_HEAP_SIZE": str(min(_HEAP, _free() // 2)), **os.environ}
    done = subprocess.run(
        [*_NIX, "build", "--out-link", link, *parts], env=environment, check=False
    )
    if done.returncode != 0:
        raise HostError(
            f"{installable}: Nix could not build the test",
            hint="a test is attest's by `imports = [ attest.testModules.attest ]`, or `.extend`",
        )


def _with_script(place: Path, script: Path | None) -> Path:
    """The manifest with its script, which attest takes from a file that ends in ``.py``."""
    path = script.resolve() if script else place / "script.py"
    if script is None:
        path.write_bytes((place / "test-1").read_bytes())
    try:
        manifest = json.loads((place / "test").read_bytes())
        manifest["script"] = str(path)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{place / 'test'}: not a manifest: {error}") from None
    written = place / f"{manifest.get('name', 'test')}.json"
    written.write_text(json.dumps(manifest))
    return written


def _free() -> int:
    """Bytes of memory that a new process can have."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(match[1]) << 10 if match else _HEAP


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
