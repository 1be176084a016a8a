"""How a layer is made: its kernel, the initrd without the agent, and for Debian the root."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

import msgspec

from attest.image.build_space import BuildSpace
from attest.image.debian import bootstrap_root, fetch_packages, finish_root
from attest.image.initrd import CpioWriter
from attest.image.kernel import KernelModules, uncompressed_kernel
from attest.image.layer import CONTENT, Layer
from attest.image.recipe import Recipe
from attest.support.user_namespace import require_tools

__all__ = ["build_layer"]

_MODULES: Final = (
    "virtio_mmio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_rng",
    "af_packet", "vsock", "vmw_vsock_virtio_transport",
)  # fmt: skip
"""What every guest may need before its root is there, or has no udev to load; fewer boot faster."""

_ROOT_MODULES: Final = {
    "mapped": ("crc32c_generic", "ext4", "dm_snapshot", "dm_zero"),
    "union": ("crc32c_generic", "ext4", "overlay"),
}
"""What a root needs that lasts, and one that is in memory: the agent loads what it mounts with.

ext4 asks the kernel for a checksum by name, and no modprobe is there that would find it."""

_MAKE_EXT4: Final = """
set -eu
bytes=$(du --summarize --bytes "$1" | cut -f1)
files=$(du --summarize --inodes "$1" | cut -f1)
room=$((bytes + files * 8192 + (64 << 20)))
features=has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super
features=$features,large_file,huge_file,dir_nlink,extra_isize,uninit_bg
exec mkfs.ext4 -q -F -b 4096 -I 256 -i 8192 -J size=16 -m 1 -O "none,$features" \
  -U "$3" -E "hash_seed=$3" -d "$1" "$2" $((room / 4096))
"""
"""Writes a tree as a file system that has little room; a machine's is made larger when it first
starts. Its features are the same whatever the host's mkfs would choose, and old kernels know them.
Its journal is small, as each machine writes all of that in time. Blocks are as large as pages,
which device-mapper copies as a whole."""

_KVM_MODULES: Final = ("kvm_amd", "kvm_intel")
_DIRECTORIES: Final = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
_BUSYBOX_FILES: Final = {
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
}


def build_layer(recipe: Recipe, work: Path, cache: Path, space: BuildSpace) -> Layer:
    """Make a layer's files in ``work/out``.

    Args:
        recipe: What to make.
        work: A directory for this build alone.
        cache: The directory of fetched packages, shared with other builds.
        space: Where the steps run.

    Raises:
        HostError: A program is missing.
        RecipeError: The kernel has no module of a name that the recipe wants.
        ImageBuildError: A step failed.
    """
    require_tools("mmdebstrap", "dpkg-deb", "depmod")
    out = work / "out"
    out.mkdir()
    if recipe.base == "debian":
        require_tools("mkfs.ext4")
        bootstrap_root(recipe, work, cache, space)
    else:
        fetch_packages(recipe, ["busybox-static"], work, cache, space)
    modules = _take_kernel(recipe, work, out, space)
    loaded = modules.load_order([*_MODULES, *recipe.modules])
    with (out / "initrd.base").open("wb") as stream:
        _write_initrd(recipe, modules, loaded, work, CpioWriter(stream))
    # A root has all modules of its kernel; without one there are those of the initrd.
    loadable = modules.load_order(_KVM_MODULES) if recipe.base == "debian" else loaded
    kvm = tuple(name for name in _KVM_MODULES if name in loadable)
    packages: list[str] = []
    if recipe.base == "debian":
        packages = _make_root(recipe, modules, work, out, space)
    layer = Layer(_content_digest(out), modules.version, packages, kvm)
    (out / "layer.json").write_bytes(msgspec.json.encode(layer))
    return layer


def _take_kernel(recipe: Recipe, work: Path, out: Path, space: BuildSpace) -> KernelModules:
    space.progress("taking the kernel apart")
    tree = work / "kernel"
    if not (tree / "usr/lib/modules").exists():  # where newer packages have it, and depmod may look
        (tree / "usr/lib").mkdir(parents=True, exist_ok=True)
        (tree / "lib/modules").rename(tree / "usr/lib/modules")
    shutil.rmtree(tree / "lib", ignore_errors=True)
    (tree / "lib").symlink_to("usr/lib")
    (directory,) = (tree / "usr/lib/modules").iterdir()
    space.run("listing modules", ["depmod", "--basedir", str(tree), directory.name])
    (compressed,) = (tree / "boot").glob("vmlinu[xz]-*")
    shutil.copyfile(compressed, out / "vmlinuz")
    (out / "vmlinux").write_bytes(uncompressed_kernel(compressed.read_bytes()))
    modules = KernelModules(directory)
    modules.check(recipe.modules, f"{recipe.source}: modules")
    return modules


def _write_initrd(
    recipe: Recipe, modules: KernelModules, loaded: list[str], work: Path, archive: CpioWriter
) -> None:
    """All of the initrd but ``/init``; the agent loads what ``/modules/order`` lists.

    For a root there are other lists beside that, of what it takes to mount it.
    """
    for name in _DIRECTORIES:
        archive.directory(name, 0o1777 if name == "tmp" else 0o755)
    archive.character_device("dev/console", 5, 1)
    lists = {"order": loaded}
    for kind, needed in _ROOT_MODULES.items() if recipe.base == "debian" else ():
        lists[f"order.{kind}"] = [name for name in modules.load_order(needed) if name not in loaded]
    for name in dict.fromkeys(itertools.chain.from_iterable(lists.values())):
        archive.file(f"modules/{name}.ko", modules.content(name))
    for order, names in lists.items():
        text = "".join(f"/modules/{name}.ko\n" for name in names)
        archive.file(f"modules/{order}", text.encode())
    if recipe.base == "tiny":
        _write_busybox(work / "busybox-static", archive)
        for file in recipe.files:
            archive.file(file.path, file.content, file.mode)
    archive.finish()


def _write_busybox(package: Path, archive: CpioWriter) -> None:
    (program,) = (path for path in package.glob("**/bin/busybox") if path.is_file())
    archive.file("bin/busybox", program.read_bytes(), 0o755)
    listed = subprocess.run(
        [program, "--list-full"], capture_output=True, text=True, check=True
    ).stdout.split()
    for applet in listed:
        if applet not in ("bin/busybox", "linuxrc", "sbin/init"):  # the agent is init
            archive.symlink(applet, "/bin/busybox")
    for path, text in _BUSYBOX_FILES.items():
        archive.file(path, text.encode())


def _make_root(
    recipe: Recipe, modules: KernelModules, work: Path, out: Path, space: BuildSpace
) -> list[str]:
    root = work / "root"
    target = root / "usr/lib/modules" / modules.version
    shutil.rmtree(target, ignore_errors=True)  # the same, where the kernel's package is installed
    target.parent.mkdir(exist_ok=True)
    modules.directory.rename(target)
    finish_root(recipe, root, space)
    space.progress("writing the root file system")
    identifier = uuid.UUID(hex=recipe.key()[:32])
    space.run(
        "writing the root file system",
        ["sh", "-c", _MAKE_EXT4, "mkfs", str(root), str(out / "root.ext4"), str(identifier)],
        env={"SOURCE_DATE_EPOCH": str(_newest_package(root))},
    )
    return _installed(root / "var/lib/dpkg/status")


def _newest_package(root: Path) -> int:
    notices = (root / "usr/share/doc").glob("*/copyright")
    return max(int(os.lstat(notice).st_mtime) for notice in notices)


def _installed(status: Path) -> list[str]:
    packages = []
    for paragraph in status.read_text(errors="replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
        if fields.get("Status", "").endswith(" installed"):
            packages.append(f"{fields['Package']} {fields['Version']}")
    return sorted(packages)


def _content_digest(out: Path) -> str:
    digest = hashlib.sha256()
    for name in CONTENT:
        if (out / name).exists():
            with (out / name).open("rb") as file:
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
