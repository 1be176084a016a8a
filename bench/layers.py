"""A recipe with five `run` lines: built, then built again after a change.

Usage: ``python -m bench.layers [--rounds N]``, by default 3 rounds. Each is in a new store, which
has all packages, but neither lists nor layers; beside it, mmdebstrap alone, with the same packages
at hand, makes a tar archive of what is to be installed. Seconds are those of whole processes,
`attest image build`, and medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attest.image.debian import PACKAGES
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.support.claims import remove
from attest.support.paths import cache_dir
from bench import record

_PACKAGES = ("nginx-light", "openssl")
_RECIPE = """
base = "debian"
packages = [PACKAGES]
run = [
  "useradd --create-home --shell /bin/bash alice",
  "openssl req -x509 -nodes -subj /CN=web -keyout /etc/nginx/key -out /etc/nginx/certificate",
  "systemctl enable report.service",
  "nginx -t",
  "echo FIFTH > /etc/issue.net",
]

[files]
"/etc/nginx/sites-enabled/default" = "site.conf"
"/etc/systemd/system/report.service" = "report.service"
"/var/www/html/index.html" = { source = "index.html", after_run = true }
"""
_SITE = """
server {
    listen 443 ssl;
    ssl_certificate /etc/nginx/certificate;
    ssl_certificate_key /etc/nginx/key;
    root /var/www/html;
}
"""
_FETCHED = cache_dir() / "images" / "packages"
_UNIT = "[Service]\nExecStart=date\n[Install]\nWantedBy=multi-user.target\n"


class _Recipe:
    """A recipe in a directory of its own, which changes.

    Args:
        directory: Where.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = directory / "web.toml"
        self._packages: tuple[str, ...] = _PACKAGES
        self._fifth = "first"
        self._write()
        self._site = directory / "site.conf"
        self._site.write_text(_SITE)
        self._page = directory / "index.html"
        self._page.write_text("Hello\n")
        (directory / "report.service").write_text(_UNIT)

    def change_run_line(self) -> None:
        self._fifth = "second"
        self._write()

    def change_late_file(self) -> None:
        self._page.write_text("Good bye\n")

    def change_file(self) -> None:
        self._site.write_text(f"# changed\n{_SITE}")

    def add_package(self) -> None:
        self._packages = (*_PACKAGES, "tree")
        self._write()

    def change_nothing(self) -> None:
        """As it is."""

    def _write(self) -> None:
        packages = ", ".join(f'"{package}"' for package in self._packages)
        text = _RECIPE.replace("PACKAGES", packages).replace("FIFTH", self._fifth)
        self.path.write_text(text)


def _bootstrap(directory: Path) -> float:
    """Seconds that mmdebstrap takes to install the packages of base and recipe."""
    target = directory / "bootstrap.tar"
    offer = (
        f'mkdir -p "$1/var/cache/apt/archives" && cp {_FETCHED}/*.deb "$1/var/cache/apt/archives"'
    )
    command = [
        "mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io",
        f"--setup-hook={offer}", "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        f"--include={','.join((*PACKAGES, *_PACKAGES))}", "bookworm", str(target),
    ]  # fmt: skip
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - begun
    target.unlink()
    return seconds


def _fetch(directory: Path) -> None:
    """Let the user's own store have all packages."""
    recipe = _Recipe(directory / "fetched")
    recipe.add_package()
    ImageStore().build(load_recipe(str(recipe.path)), progress=print)


def _round(directory: Path) -> dict[str, float]:
    cache = directory / "cache"
    shutil.copytree(_FETCHED, cache / "attest/images/packages")
    recipe = _Recipe(directory / "recipe")

    def build(change: Callable[[], None]) -> float:
        change()
        command = [sys.executable, "-m", "attest", "image", "build", str(recipe.path)]
        env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        begun = time.monotonic()
        subprocess.run(
            command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return time.monotonic() - begun

    return {
        "mmdebstrap alone, of the same packages": _bootstrap(directory),
        "built": build(recipe.change_nothing),
        "its fifth `run` line changed": build(recipe.change_run_line),
        "a file changed that comes after the `run` lines": build(recipe.change_late_file),
        "a file changed that all five `run` lines see": build(recipe.change_file),
        "a package added": build(recipe.add_package),
        "nothing changed": build(recipe.change_nothing),
    }


def main() -> None:
    """Print the table, and write a record."""
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/layers.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        _fetch(Path(directory))
    rounds = []
    for number in range(options.rounds):
        place = Path(tempfile.mkdtemp(prefix="bench-layers-", dir=cache_dir()))
        try:
            rounds.append(_round(place))
        finally:
            remove(place)  # layers have files of other ids
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
    figures = {name: [each[name] for each in rounds] for name in rounds[0]}
    medians = {name: statistics.median(seconds) for name, seconds in figures.items()}
    alone, *rest = medians
    print(*(f"{name}: {value}" for name, value in record.host().items()), sep="\n")
    print(f"\n{f'seconds, medians of {options.rounds}':50}  {'takes':>7}  {'of mmdebstrap':>13}")
    for name, median in medians.items():
        print(f"{name:50}  {median:7.2f}  {median / medians[alone]:13.2f}")
    ratios = {f"{name}/{alone}": medians[name] / medians[alone] for name in rest}
    record.write(options.out, figures, ratios)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
