"""The steps of a recipe: each makes a layer on top of those before it."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from attest.image.apt_progress import AptProgress
from attest.image.debian import (
    CONFIGURATION,
    LINKS,
    PACKAGES,
    SLIM_DOCUMENTATION,
    SLIM_SYSTEM,
)
from attest.image.flat_kernel import write_flat_kernel
from attest.image.kernel import uncompressed_kernel
from attest.image.package_lists import PackageLists
from attest.image.recipe import Part, Recipe, RecipeFile
from attest.image.tree import CHROOT, Workplace

__all__ = ["Kernel", "Source", "Step", "steps_of"]

_OFFER: Final = """
offer() {
  mkdir -p "$1/partial"
  find "$CACHE/" -name "*.deb" -exec ln -t "$1" {} + || :  # another build may remove some
}
keep() {
  for file in "$1"/*.deb; do
    [ -e "$CACHE/${file##*/}" ] || { touch "$file"; ln "$file" "$CACHE" || :; }
  done
}
"""
"""Shell functions that let a directory have the fetched packages, and keep those that are new."""

_OFFER_HOOK: Final = f"""#!/bin/sh
set -eu
{_OFFER}
offer "$1/var/cache/apt/archives"
mkdir -p "$1/var/lib/apt"
cp -a "$LISTS/var/lib/apt/lists" "$1/var/lib/apt"
"""
_KEEP_HOOK: Final = f"""#!/bin/sh
set -eu
{_OFFER}
keep "$1/var/cache/apt/archives"
"""

_UNPACK: Final = f"""
set -eu
{_OFFER}
offer archives
cd archives
# A kernel's package is mostly an empty one that depends on the package of the version.
versioned=$(apt-cache depends "$1" | sed -n "s/^  Depends: \\(linux-image-[0-9].*\\)/\\1/p")
file=$(cd / && apt-get download --print-uris "${{versioned:-$1}}" | cut -d" " -f2)
apt-get download "${{versioned:-$1}}"  # nothing, where it is here
dpkg-deb --extract "$file" ../unpacked
cd ..
keep archives
"""

# It is apt of the host that installs, with lists that are not in the image, and dpkg of the image.
# No daemon is started: that is for the machine. What tells of this moment is removed.
_INSTALL: Final = f"""
{_OFFER}
{CHROOT}
offer archives
mkdir -p "$root/var/cache/apt/archives"
mount --bind archives "$root/var/cache/apt/archives"
policy=$root/usr/sbin/policy-rc.d
[ -e "$policy" ] || {{ own=$policy; printf '#!/bin/sh\\nexit 101\\n' > "$own"; chmod 755 "$own"; }}
export DEBIAN_FRONTEND=noninteractive
apt-get --yes --no-install-recommends --no-remove --allow-downgrades install "$@"
rm -f "${{own:-}}"
keep archives
chroot "$root" sh -euc '{SLIM_DOCUMENTATION}'
rm -f "$root"/var/log/dpkg.log "$root"/var/log/alternatives.log "$root"/var/cache/ldconfig/aux-cache
if [ -s "$root/etc/machine-id" ]; then : > "$root/etc/machine-id"; fi
if [ -L "$root/etc/resolv.conf" ]; then rm "$root/etc/resolv.conf"; : > "$root/etc/resolv.conf"; fi
"""

# Unpacked inside, so that no link of the root leads out of it.
_ADD: Final = """
exec chroot "$root" tar -x -C / --keep-directory-symlink
"""

_RUN: Final = f"""
{CHROOT}
exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \\
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -euc "$1"
"""


class Source(msgspec.Struct, frozen=True):
    """Where packages come from.

    Attributes:
        lists: Fetches the package lists, when they are not there.
        cache: The directory of fetched packages, shared with other builds.
    """

    lists: Callable[[], PackageLists]
    cache: Path


class Step(Protocol):
    """One step.

    Attributes:
        text: What it does, in one line.
        inputs: All that decides what it makes, but for what is below; JSON values.
        alone: What is below does not matter to it.
        needs_packages: It may fetch packages.
    """

    text: str
    inputs: list[object]
    alone: bool
    needs_packages: bool

    def make(self, place: Workplace, source: Source) -> int:
        """Make the layer's directory.

        Args:
            place: Where.
            source: Where packages come from.

        Returns:
            The time of the newest package in it, in seconds since the epoch; 0 if it has none.

        Raises:
            ImageBuildError: It failed.
            HostError: The host lacks a program.
        """
        ...


def steps_of(recipe: Recipe) -> list[Step]:
    """A recipe's steps, in order; the first is its `Kernel`."""
    first: list[Step] = [Kernel(recipe)]
    if recipe.base == "tiny":  # its files are in the initrd
        return [*first, _Busybox(recipe)]
    first.append(_Base(recipe))
    for part in recipe.parts:
        early = [file for file in part.files if not file.after_run]
        late = [file for file in part.files if file.after_run]
        if part.packages:
            first.append(_Packages(part))
        if early or part.mask:
            first.append(_Files(early, part.mask))
        first += [_Run(part, number) for number in range(len(part.run))]
        if late:
            first.append(_Files(late, ()))
    return first


class Kernel:
    """A kernel's package, unpacked, not installed: that would bring a generator of initrds.

    Args:
        recipe: Whose kernel it is.
    """

    alone = True
    needs_packages = True

    def __init__(self, recipe: Recipe) -> None:
        self._package, self._arch = recipe.kernel, recipe.arch
        self.text = f"kernel {recipe.kernel} of {recipe.suite} ({recipe.dpkg_arch})"
        self.inputs: list[object] = ["kernel", recipe.suite, recipe.arch, recipe.kernel]

    def make(self, place: Workplace, source: Source) -> int:
        """Make ``vmlinuz``, ``vmlinux``, and a tree with the modules."""
        _unpack(place, source, self._package)
        unpacked, modules = place.work / "unpacked", place.out / "tree/usr/lib/modules"
        modules.parent.mkdir(parents=True)
        places = (unpacked / "usr/lib/modules", unpacked / "lib/modules")
        next(each for each in places if each.exists()).rename(modules)
        (directory,) = modules.iterdir()
        lists = place.work / "lists"  # depmod looks in `lib`, or in `usr/lib`, as it was configured
        lists.mkdir()
        (lists / "lib").symlink_to(modules.parent)
        (lists / "usr").symlink_to(modules.parents[1])
        place.space.run("listing modules", ["depmod", "--basedir", str(lists), directory.name])
        (compressed,) = (unpacked / "boot").glob("vmlinu[xz]-*")
        kernel = compressed.read_bytes()
        uncompressed = uncompressed_kernel(kernel)
        (place.out / "vmlinux").write_bytes(uncompressed)
        if self._arch == "x86_64":
            write_flat_kernel(place.out / "vmlinuz", kernel, uncompressed)
        else:
            shutil.copyfile(compressed, place.out / "vmlinuz")
        for path in (place.out / "vmlinuz", place.out / "vmlinux"):
            path.chmod(0o644)  # whatever the user's umask is
        for path in (modules.parent, modules.parents[1]):
            path.chmod(0o755)
        return newest_package(unpacked)


class _Busybox:
    alone = True
    needs_packages = True

    def __init__(self, recipe: Recipe) -> None:
        self.text = f"busybox-static of {recipe.suite} ({recipe.dpkg_arch})"
        self.inputs: list[object] = ["busybox-static", recipe.suite, recipe.arch]

    def make(self, place: Workplace, source: Source) -> int:
        _unpack(place, source, "busybox-static")
        place.out.mkdir()
        (place.work / "unpacked").rename(place.out / "tree")
        return newest_package(place.out / "tree")


class _Base:
    """Debian without anything of the recipe's but the suite."""

    alone = True
    needs_packages = True

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.text = f"base debian: {recipe.suite} ({recipe.dpkg_arch})"
        self.inputs: list[object] = [
            "base", recipe.suite, recipe.arch, PACKAGES, _files_key(CONFIGURATION, LINKS, ()),
            SLIM_DOCUMENTATION, SLIM_SYSTEM,
        ]  # fmt: skip

    def make(self, place: Workplace, source: Source) -> int:
        place.out.mkdir()
        tree = place.out / "tree"
        arch, suite = self._recipe.dpkg_arch, self._recipe.suite
        # Without the hook, older suites install all of Perl to merge /usr. The packages stay until
        # they are in the cache; /sys cannot be mounted in a user namespace.
        place.space.run(
            f"bootstrapping {suite}",
            ["mmdebstrap", "--verbose", "--mode=root", "--format=directory", "--variant=minbase",
             f"--architectures={arch}", "--skip=update,essential/unlink,chroot/mount/sys",
             f"--include={','.join(PACKAGES)}", "--dpkgopt=force-unsafe-io",
             f"--setup-hook={_script(place.work / 'offer', _OFFER_HOOK)}",
             "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
             f"--customize-hook={_script(place.work / 'keep', _KEEP_HOOK)}",
             suite, str(tree)],
            env={
                "CACHE": str(source.cache), "LISTS": str(source.lists().directory),
                "TMPDIR": str(place.work),  # what it leaves there when it is killed goes, too
                # Any fixed day but the first, which /etc/shadow takes for an expired password.
                "SOURCE_DATE_EPOCH": "1672531200",
            },
            follow=AptProgress(place.space.progress).line,
        )  # fmt: skip
        with _archive(CONFIGURATION, LINKS, ()) as archive:
            add = ["chroot", str(tree), "tar", "-x", "-C", "/", "--keep-directory-symlink"]
            place.space.run("configuring", add, stdin=archive)
        slim = SLIM_DOCUMENTATION + SLIM_SYSTEM
        place.space.run("removing files", ["chroot", str(tree), "sh", "-euc", slim])
        return newest_package(tree)


class _Packages:
    alone = False
    needs_packages = True

    def __init__(self, part: Part) -> None:
        self._packages = sorted(part.packages)
        self.text = f"packages {', '.join(part.packages)}"
        self.inputs: list[object] = ["packages", self._packages, SLIM_DOCUMENTATION]

    def make(self, place: Workplace, source: Source) -> int:
        lists, root = source.lists(), str(place.work / "root")
        changes = {
            "Dir::State::Status": f"{root}/var/lib/dpkg/status",
            "Dir::State::extended_states": f"{root}/var/lib/apt/extended_states",
            "Dir::Cache::archives": f"{root}/var/cache/apt/archives",
            "Dir::Log::Terminal": "", "Dir::Log::History": "", "Dir::Log::Planner": "",
            "DPkg::Chroot-Directory": root,
            "DPkg::Options::": "--force-unsafe-io",
        }  # fmt: skip
        # A file of the recipe's stays what it is, where a package has another one in its place.
        options = 'DPkg::Options { "--force-confdef"; "--force-confold"; };\n'
        _write_configuration(place, lists.configuration(changes) + options)
        place.change(
            "installing packages",
            _INSTALL,
            *self._packages,
            env=_environment(place, source),
            follow=AptProgress(place.space.progress).line,
        )
        return newest_package(place.out / "tree")


class _Files:
    alone = False
    needs_packages = False

    def __init__(self, files: list[RecipeFile], mask: tuple[str, ...]) -> None:
        self._files = files
        self._links = {f"/etc/systemd/system/{unit}": "/dev/null" for unit in mask}
        named = [*(file.path for file in files), *(f"mask {unit}" for unit in mask)]
        self.text = f"files {', '.join(named)}"
        self.inputs: list[object] = ["files", _files_key({}, self._links, files)]

    def make(self, place: Workplace, _source: Source) -> int:
        with _archive({}, self._links, self._files) as archive:
            place.change("adding files", _ADD, stdin=archive)
        return 0


class _Run:
    alone = False
    needs_packages = False

    def __init__(self, part: Part, number: int) -> None:
        self._command = part.run[number]
        self._where = f"{part.source}: run.{number}"
        self.text = f"run {' '.join(self._command.split())}"
        self.inputs: list[object] = ["run", self._command]

    def make(self, place: Workplace, _source: Source) -> int:
        place.change(f"{self._where}: `{self._command}`", _RUN, self._command)
        return 0


def newest_package(tree: Path) -> int:
    """The time of the newest package that is unpacked in a tree; 0 if there is none."""
    notices = (tree / "usr/share/doc").glob("*/copyright")
    return max((int(os.lstat(notice).st_mtime) for notice in notices), default=0)


def _unpack(place: Workplace, source: Source, package: str) -> None:
    """Unpack a package into ``unpacked``."""
    _write_configuration(place, source.lists().configuration())
    place.space.run(
        f"unpacking {package}",
        ["sh", "-c", _UNPACK, "unpack", package],
        env=_environment(place, source),
        cwd=place.work,
        follow=AptProgress(place.space.progress).line,
        shown=f"apt-get download {package}",
    )


def _write_configuration(place: Workplace, configuration: str) -> None:
    (place.work / "apt.conf").write_text(configuration)


def _environment(place: Workplace, source: Source) -> Mapping[str, str]:
    return {"APT_CONFIG": str(place.work / "apt.conf"), "CACHE": str(source.cache)}


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def _files_key(
    texts: Mapping[str, str], links: Mapping[str, str], files: Sequence[RecipeFile]
) -> list[object]:
    return [sorted(texts.items()), sorted(links.items()), sorted(file.key() for file in files)]


@contextmanager
def _archive(
    texts: Mapping[str, str], links: Mapping[str, str], files: Sequence[RecipeFile]
) -> Iterator[IO[bytes]]:
    """A tar archive of what is to be put into a root."""
    contents = {path: (text.encode(), 0o644) for path, text in texts.items()}
    contents |= {file.path: (file.content, file.mode) for file in files}
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path, target in links.items():
                link = tarfile.TarInfo(path.strip("/"))
                link.type, link.linkname = tarfile.SYMTYPE, target
                archive.addfile(link)
            for path, (content, mode) in contents.items():
                file = tarfile.TarInfo(path.strip("/"))
                file.size, file.mode = len(content), mode
                archive.addfile(file, io.BytesIO(content))
        stream.seek(0)
        yield stream
