"""The packages that a suite has: lists of them, kept for some hours, and what is asked of them.

mmdebstrap fetches the lists, so which servers they come from is its decision and that of the host's
apt configuration. Each of apt's programs is told about them by a configuration file.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attest.errors import RecipeError
from attest.image.apt_progress import AptProgress
from attest.image.build_space import BuildSpace
from attest.image.debian import PACKAGES
from attest.image.recipe import Recipe
from attest.image.store_files import discard, entries, publish
from attest.support.claims import claimed
from attest.support.user_namespace import program_path
from attest.support.validation import did_you_mean

__all__ = ["PackageLists", "package_lists"]

_HOUR: Final = 3600.0
_MAX_AGE: Final = 6 * _HOUR
"""Servers keep what lists of a day ago name."""

_KEEP: Final = """#!/bin/sh
set -eu
mkdir -p "$OUT/etc" "$OUT/var/lib/apt" "$OUT/var/cache/apt"
cp "$MMDEBSTRAP_APT_CONFIG" "$OUT/apt.conf"
cp -a "$1/etc/apt" "$OUT/etc"
cp -a "$1/var/lib/dpkg" "$OUT/var/lib"
mv "$1/var/lib/apt/lists" "$OUT/var/lib/apt"
mkdir "$1/var/lib/apt/lists"
sync --file-system "$OUT"
"""
"""A hook of mmdebstrap's that keeps what apt needs of what that has made."""

_MISSING: Final = re.compile(
    r"E: (Unable to locate package (?P<name>\S+)"
    r"|Version '(?P<version>.+)' for '(?P<versioned>.+)' was not found"
    r"|Package '(?P<virtual>.+)' has no installation candidate"
    r"|Release '(?P<release>.+)' for '(?P<released>.+)' was not found)"
)


class PackageLists:
    """apt's state for one suite and architecture.

    Args:
        directory: Where it is.
        recipe: Whose suite and architecture it is for.

    Attributes:
        directory: The same.
    """

    def __init__(self, directory: Path, recipe: Recipe) -> None:
        self.directory = directory
        self._suite = recipe.suite

    def configuration(self, changes: Mapping[str, str] | None = None) -> str:
        """A configuration for apt's programs, in which these are the lists.

        Args:
            changes: Further settings, by their names.
        """
        kept = [
            line for line in (self.directory / "apt.conf").read_text().splitlines()
            if not line.startswith(("Dir ", "Dir::State::Status "))
        ]  # fmt: skip
        settings = {
            "Dir": str(self.directory),
            "Dir::State::Status": str(self.directory / "var/lib/dpkg/status"),
            "Dir::Cache::pkgcache": "",  # several use the directory at once
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "3",
            "Dpkg::Use-Pty": "false",
            **(changes or {}),
        }
        return "\n".join([*kept, *(f'{name} "{value}";' for name, value in settings.items()), ""])

    def check(self, recipe: Recipe, work: Path) -> None:
        """Require that there are all packages of a recipe, and that they go together.

        Args:
            recipe: The recipe.
            work: A directory for this alone.

        Raises:
            RecipeError: Some are not there; names the recipe's file and key.
        """
        base = PACKAGES if recipe.base == "debian" else ("busybox-static",)
        wanted = [*base, recipe.kernel, *(name for part in recipe.parts for name in part.packages)]
        done = self._ask(
            work, "apt-get", "install", "--simulate", "--no-install-recommends", *wanted
        )
        if not done.returncode:
            return
        missing = list(map(self._reason, _MISSING.finditer(done.stderr)))
        for name, reason in missing:
            raise RecipeError(f"{_where(recipe, name)}: {reason}", hint=self._nearest(name, work))
        raise RecipeError(
            f"{recipe.source}: packages: they cannot be installed together in {self._suite}:\n"
            + done.stdout.partition("The following packages have unmet")[2].partition("\n")[2]
            + done.stderr
        )

    def _reason(self, found: re.Match[str]) -> tuple[str, str]:
        """A package that is not there, and what to say of it."""
        if name := found["name"]:
            return name, f"no package `{name}` in {self._suite}"
        if name := found["virtual"]:
            return name, f"no package `{name}` in {self._suite}, only others that provide it"
        if name := found["versioned"]:
            return name, f"package `{name}` has no version {found['version']} in {self._suite}"
        return found["released"], f"package `{found['released']}` is not in {found['release']}"

    def _nearest(self, name: str, work: Path) -> str:
        known = self._ask(work, "apt-cache", "pkgnames").stdout.split()
        versions = self._ask(work, "apt-cache", "madison", name).stdout.split("\n")
        there = [line.split("|")[1].strip() for line in versions if line.count("|") >= 2]
        if name in known and there:
            return f"there is {', '.join(dict.fromkeys(there))}"
        return did_you_mean(name, known)

    def _ask(self, work: Path, *command: str) -> subprocess.CompletedProcess[str]:
        (work / "apt.conf").write_text(self.configuration())
        return subprocess.run(
            command, capture_output=True, text=True, check=False, errors="replace",
            env={**os.environ, "APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C.UTF-8",
                 "PATH": program_path()},
        )  # fmt: skip


def _where(recipe: Recipe, name: str) -> str:
    """The file and key that want a package."""
    for part in reversed(recipe.parts):
        if any(re.split("[=/]", each)[0] == name for each in part.packages):
            return f"{part.source}: packages"
    return f"{recipe.source}: kernel" if name == recipe.kernel else f"{recipe.source}: suite"


def package_lists(
    store: Path, recipe: Recipe, space: BuildSpace, since: float | None = None
) -> PackageLists:
    """A suite's lists of packages, fetched when there are none that are new enough.

    Args:
        store: The image store's directory.
        recipe: Whose suite and architecture they are for.
        space: Where the steps run.
        since: How old they may be, in seconds since the epoch; some hours by default.

    Raises:
        ImageBuildError: They could not be fetched.
    """
    name = f"{recipe.suite}-{recipe.dpkg_arch}"
    oldest = time.time() - _MAX_AGE if since is None else since
    if found := _newest(store, name, oldest):
        return PackageLists(found, recipe)
    with claimed(store / "building" / f"lists-{name}", lambda: space.progress(
        f"waiting for another build that fetches the package lists of {recipe.suite}"
    )) as work:  # fmt: skip
        if not (found := _newest(store, name, oldest)):
            space.progress(f"fetching the package lists of {recipe.suite} ({recipe.dpkg_arch})")
            _fetch(recipe, work, space)
            found = store / "lists" / f"{name}.{time.time():.0f}"
            publish(work / "out", found)
            for other in _all(store, name):
                if _time(other) < time.time() - _HOUR and other != found:
                    discard(other, store / "building")
    return PackageLists(found, recipe)


def _all(store: Path, name: str) -> list[Path]:
    return [path for path in entries(store / "lists") if path.name.rpartition(".")[0] == name]


def _newest(store: Path, name: str, oldest: float) -> Path | None:
    fitting = [path for path in _all(store, name) if _time(path) >= int(oldest)]
    return max(fitting, key=_time, default=None)


def _time(path: Path) -> float:
    return float(path.name.rpartition(".")[2])


def _fetch(recipe: Recipe, work: Path, space: BuildSpace) -> None:
    hook = work / "keep"
    hook.write_text(_KEEP)
    hook.chmod(0o755)
    space.run(
        f"fetching the package lists of {recipe.suite}",
        ["mmdebstrap", "--verbose", "--mode=root", "--variant=custom", "--format=directory",
         f"--architectures={recipe.dpkg_arch}",
         "--skip=cleanup,chroot/mount/sys", f"--customize-hook={hook}",
         recipe.suite, str(work / "tree")],
        env={"OUT": str(work / "out"), "TMPDIR": str(work)},
        follow=AptProgress(space.progress).line,
    )  # fmt: skip
