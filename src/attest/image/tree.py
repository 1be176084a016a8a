"""The trees of layers, put together: to look at, or to make the next layer on top of them.

overlayfs does it, within the build's own mounts. Where it cannot, such as in a cache that itself
lies on an overlay, a layer is made in a copy of all that is below it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Final

from attest.image.build_space import BuildSpace
from attest.support.claims import claimed
from attest.support.user_namespace import namespaces, program_path

__all__ = ["CHROOT", "Workplace", "overlays_work"]

# `mount` passes what it is told to the kernel piece by piece, of 255 bytes at most, if it is not
# told to do as it did in former times, when a page was the limit.
_SETUP: Final = """
set -eu
export LIBMOUNT_FORCE_MOUNT2=always
root=$PWD/root
mkdir "$root"
view=$1 trees=$2
shift 2
case $view in
make-*) chmod 755 out/tree ;;  # whatever the user's umask is
esac
case $view in
make-overlay)
    mkdir overlay
    mount -t overlay overlay "$root" \\
        -o "lowerdir=$trees,upperdir=out/tree,workdir=overlay,userxattr,volatile" ;;
make-copy)
    for tree in $trees; do cp -a --reflink=auto "$tree/." out/tree; done
    mount --bind out/tree "$root" ;;
look-overlay)
    mount -t overlay overlay "$root" -o "lowerdir=$trees,userxattr" ;;
look-single)
    mount --bind "$trees" "$root" ;;
look-copy)
    for tree in $trees; do cp -a --reflink=auto "$tree/." "$root"; done ;;
esac
"""
"""Puts the trees together at ``$root``; what follows has its arguments from ``$1`` on."""

CHROOT: Final = """
for place in dev proc sys; do mount --rbind "/$place" "$root/$place"; done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
if [ -e /etc/resolv.conf ] && [ -f "$root/etc/resolv.conf" ] && [ ! -L "$root/etc/resolv.conf" ]
then mount --bind /etc/resolv.conf "$root/etc/resolv.conf"; fi
"""
"""Makes ``$root`` a place in which programs find what they expect."""

# Times of change are those of no moment of the build, so that equal content is equal. Whiteouts and
# xattrs count. What a layer is published with is on disk.
_FINISH: Final = """
cd out
chmod 755 . tree
find . -newermt "@$1" -exec touch --no-dereference --date="@$1" {} +
du --summarize --block-size=1 . | cut -f1 > ../size
tar --create --sort=name --format=posix --numeric-owner --xattrs --xattrs-include='*' \\
    --pax-option=exthdr.name=%d/%f,delete=atime,delete=ctime . |
    sha256sum | cut -d' ' -f1 > ../digest
sync --file-system .
"""

_PROBE: Final = """
set -eu
cd "$1"
mkdir -p lower/directory upper overlay root
touch lower/file
mount -t overlay overlay root -o lowerdir=lower,upperdir=upper,workdir=overlay,userxattr,volatile
rm -r root/file root/directory
mkdir root/directory
[ ! -e root/file ]
"""


@cache
def overlays_work(building: Path) -> bool:
    """Whether layers can be made as overlays, tried in a directory like theirs.

    Args:
        building: The store's directory of builds under way.
    """
    with claimed(building / "overlay") as work:
        probe = ["sh", "-c", _PROBE, "probe", str(work)]
        tried = subprocess.run(
            [*namespaces(), *probe], capture_output=True, check=False,
            env={"PATH": program_path()},
        )  # fmt: skip
        return tried.returncode == 0


class Workplace:
    """Where one layer is made, or a stack of them looked at.

    Args:
        work: A directory for this alone.
        trees: The trees that are put together, from the bottom up.
        overlay: By overlayfs; else by copies.
        space: Where the steps run.
    """

    def __init__(self, work: Path, trees: Sequence[Path], overlay: bool, space: BuildSpace) -> None:
        self.work = work
        self.space = space
        self._overlay = overlay
        self._numbers = [str(number) for number in range(len(trees))]  # the kernel's limit is short
        for number, tree in zip(self._numbers, trees, strict=True):
            (work / number).symlink_to(tree)

    @property
    def out(self) -> Path:
        """What the layer's directory is to be; in it, ``tree`` is what a step changes."""
        return self.work / "out"

    def change(
        self,
        step: str,
        script: str,
        *arguments: str,
        stdin: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        follow: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Run a shell script that changes ``$root``.

        Args:
            step: What it does, for the error message.
            script: The script.
            arguments: Its arguments.
            stdin: What it reads.
            env: Additions to the environment.
            follow: Called with each line of its output.

        Raises:
            ImageBuildError: It failed.
        """
        (self.out / "tree").mkdir(parents=True)
        command = self._command(f"make-{self._way}", script, arguments)
        self.space.run(
            step, command, stdin=stdin, env=env, cwd=self.work,
            follow=follow, shown=" ".join(arguments),
        )  # fmt: skip

    def look(self, step: str, script: str, *arguments: str) -> None:
        """Run a shell script that reads ``$root``.

        Raises:
            ImageBuildError: It failed.
        """
        way = "single" if len(self._numbers) == 1 else self._way
        command = self._command(f"look-{way}", script, arguments)
        self.space.run(step, command, cwd=self.work, shown=" ".join(arguments))

    def finish(self, epoch: int) -> tuple[str, int]:
        """Make ``out`` what it is to stay.

        Args:
            epoch: No file is to be younger.

        Returns:
            The digest of its content, and its bytes on disk.
        """
        command = ["bash", "-euo", "pipefail", "-c", _FINISH, "finish", str(epoch)]
        self.space.run("reading the layer", command, cwd=self.work, shown="tar")
        digest = (self.work / "digest").read_text().strip()
        return digest, int((self.work / "size").read_text())

    @property
    def _way(self) -> str:
        return "overlay" if self._overlay else "copy"

    def _command(self, view: str, script: str, arguments: Sequence[str]) -> list[str]:
        top_first = view in ("make-overlay", "look-overlay")
        trees = ":".join(reversed(self._numbers)) if top_first else " ".join(self._numbers)
        return ["sh", "-c", _SETUP + script, "layer", view, trees, *arguments]
