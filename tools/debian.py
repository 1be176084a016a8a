"""Debian packages from the machine's own mirror, without a change to its package sources.

The newest QEMU is in the mirror's backports suite, which most machines have not configured. So apt
gets sources of its own: copies of the machine's, with that suite added, in a directory of ours.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from attest.image.apt_progress import AptProgress  # which needs no other package

__all__ = ["Package", "PrivateApt", "codename", "with_backports"]

_ETC: Final = Path("/etc/apt")


@dataclass(frozen=True)
class Package:
    """A package apt would install: its name and version."""

    name: str
    version: str


class PrivateApt:
    """apt-get with package sources and lists in ``directory``.

    Args:
        directory: Where they are.
        tell: Told what takes time.

    Raises:
        SystemExit: From each method: apt-get failed; the message holds its last output.
    """

    def __init__(self, directory: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self._tell = tell
        self._parts = directory / "sources"
        self._lists = directory / "lists"
        self._updated = False
        self.backports = f"{codename()}-backports"

    def update(self) -> None:
        """Fetch the package lists, once; `has_backports` tells whether the mirror has those."""
        if self._updated:
            return
        shutil.rmtree(self._parts, ignore_errors=True)
        self._parts.mkdir(parents=True)
        (self._lists / "partial").mkdir(parents=True, exist_ok=True)
        for name, text in with_backports(_ETC, codename()).items():
            (self._parts / name).write_text(text)
        self._tell("fetching the package lists")
        # A mirror without backports makes it fail though all else was fetched.
        self._run(["-qq", "-o", "APT::Sandbox::User=root", "update"], check=False)
        self._updated = True

    @property
    def has_backports(self) -> bool:
        """The mirror has a backports suite for this release."""
        return any(self._lists.glob(f"*_dists_{self.backports}_*Release"))

    def install(self, packages: Sequence[str], *, release: str = "") -> None:
        """Install packages, as root or through sudo, preferring those of ``release``."""
        command = ["-q", "--yes", "--no-install-recommends", *_target(release)]
        self._run([*command, "install", *packages], root=True)
        self._tell("")

    def plan(self, package: str, *, release: str = "", status: Path) -> list[Package]:
        """What would be installed for ``package`` where ``status`` lists the installed packages."""
        options = ["--simulate", "--no-install-recommends", *_target(release)]
        options += ["-o", f"Dir::State::status={status}"]
        output = self._run([*options, "install", package])
        found = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", output, re.MULTILINE)
        return [Package(name, version) for name, version in found]

    def download(self, packages: Sequence[Package], directory: Path) -> None:
        """Download packages' archives into a directory."""
        names = [f"{package.name}={package.version}" for package in packages]
        self._run(["-qq", "-o", "APT::Sandbox::User=root", "download", *names], cwd=directory)

    def _run(
        self, arguments: Sequence[str], *, root: bool = False, check: bool = True,
        cwd: Path | None = None,
    ) -> str:  # fmt: skip
        command = ["apt-get", *self._options(), *arguments]
        if root:
            command = [*_as_root(command), "env", "DEBIAN_FRONTEND=noninteractive", *command]
        status, output = progress.run(
            command, AptProgress(self._tell).line, cwd=cwd, env=os.environ | {"LC_ALL": "C.UTF-8"}
        )
        if check and status != 0:
            last = "\n".join(output.splitlines()[-12:])
            raise SystemExit(f"{last}\nthis failed: {' '.join(command)}")
        return output

    def _options(self) -> list[str]:
        settings = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._parts,
            "Dir::State::lists": self._lists,
            # apt's own caches describe the machine's sources and must go on doing so.
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dpkg::Use-Pty": "0",
            "DPkg::Lock::Timeout": "600",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def codename() -> str:
    """The release's code name, such as ``bookworm``; empty where the system has none."""
    release = Path("/etc/os-release").read_text()
    match = re.search(r'^VERSION_CODENAME="?([\w.-]+)', release, re.MULTILINE)
    return match[1] if match else ""


def with_backports(etc: Path, release: str) -> dict[str, str]:
    """The sources in ``etc`` that offer ``release``, each with its mirror's backports suite.

    Args:
        etc: A directory such as ``/etc/apt``.
        release: The release's code name.

    Returns:
        File names and contents, for a directory such as ``/etc/apt/sources.list.d``.
    """
    found = {}
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not file.is_file():
            continue
        text = file.read_text()
        if file.suffix == ".list":
            found[file.name] = _one_line_style(text, release)
        elif file.suffix == ".sources":
            found[file.name] = _deb822_style(text, release)
    return {name: text for name, text in found.items() if text}


def _one_line_style(text: str, release: str) -> str:
    kept = []
    for line in text.splitlines():
        match = re.match(r"(\s*deb\s+(?:\[[^]]*\]\s+)?\S+\s+)(\S+)(\s.*)", line)
        if match and (suites := _suites([match[2]], release)):
            kept += [f"{match[1]}{suite}{match[3]}\n" for suite in suites]
    return "".join(kept)


def _deb822_style(text: str, release: str) -> str:
    kept = []
    # A comment may stand between a field and its continuation lines.
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text.strip()):
        fields = re.compile(r"^Suites:((?:.*)(?:\n[ \t].*)*)", re.MULTILINE | re.IGNORECASE)
        match = fields.search(stanza)
        if match and (suites := _suites(match[1].split(), release)):
            kept.append(fields.sub(f"Suites: {' '.join(suites)}", stanza) + "\n")
    return "\n".join(kept)


def _suites(suites: Sequence[str], release: str) -> list[str]:
    own = [suite for suite in suites if re.split("[-/]", suite)[0] == release]
    backports = f"{release}-backports"
    return [*own, backports] if release in own and backports not in own else own


def _target(release: str) -> list[str]:
    return ["--target-release", release] if release else []


def _as_root(command: Sequence[str]) -> list[str]:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise SystemExit(f"this needs root, and there is no sudo; run as root: {' '.join(command)}")
