"""How an image's content is made of layers: the initrd without the agent, and Debian's root."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attest.image.content import Content, Made
from attest.image.initrd import CpioWriter
from attest.image.kernel import KernelModules
from attest.image.layer import Layer
from attest.image.recipe import Recipe
from attest.image.tree import Workplace

__all__ = ["content_digest", "write_content"]

_VERSION: Final = 3
"""Goes into every digest: raise it when something else is made of the same layers."""

_MODULES: Final = (
    "virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "virtio_rng", "af_packet",
)  # fmt: skip
"""What every guest may need before its root is there, or has no udev to load; fewer boot faster."""

_BUS_MODULES: Final = {
    "pci": ("virtio_pci",),
    "vsock": ("vsock", "vmw_vsock_virtio_transport"),
}
"""What a guest needs that has PCI, or a vsock device: the agent looks whether it does."""

_ROOT_MODULES: Final = {
    "mapped": ("crc32c_generic", "ext4", "dm_snapshot", "dm_zero"),
    "union": ("crc32c_generic", "ext4", "overlay"),
}
"""What a root needs that lasts, and one that is in memory: the agent loads what it mounts with.

ext4 asks the kernel for a checksum by name, and no modprobe is there that would find it."""

_MAKE_EXT4: Final = """
bytes=$(du --summarize --bytes "$root" | cut -f1)
files=$(du --summarize --inodes "$root" | cut -f1)
room=$((bytes + files * 8192 + (64 << 20)))
features=has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super
features=$features,large_file,huge_file,dir_nlink,extra_isize,uninit_bg
exec mkfs.ext4 -q -F -b 4096 -I 256 -i 8192 -J size=16 -m 1 -O "none,$features" \
  -U "$1" -E "hash_seed=$1" -d "$root" out/root.ext4 $((room / 4096))
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


def content_digest(recipe: Recipe, stack: Sequence[Layer]) -> str:
    """What identifies the content that a recipe and its layers make: SHA-256, hexadecimal."""
    in_initrd = sorted(file.key() for file in recipe.files) if recipe.base == "tiny" else []
    parts = [
        _VERSION, recipe.base, [layer.digest for layer in stack], recipe.modules, in_initrd,
        _MODULES, _BUS_MODULES, _ROOT_MODULES, _MAKE_EXT4,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_content(
    recipe: Recipe, digest: str, layers: Sequence[Path], made: Sequence[Made], place: Workplace
) -> Content:
    """Write a content's files into ``out``, but for `content.json`.

    Args:
        recipe: The recipe.
        digest: Of `content_digest`.
        layers: Its layers' directories, the kernel's first.
        made: Its layers.
        place: Where the trees of the layers are put together.

    Raises:
        ImageBuildError: The root could not be written.
    """
    for name in ("vmlinuz", "vmlinux"):
        (place.out / name).hardlink_to(layers[0] / name)
    (directory,) = layers[0].glob("tree/usr/lib/modules/*")
    modules = KernelModules(directory)
    debian = recipe.base == "debian"
    loaded = modules.load_order([*_MODULES, *recipe.modules])
    with (place.out / "initrd.base").open("wb") as stream:
        _write_initrd(recipe, modules, loaded, layers, CpioWriter(stream))
    if debian:
        place.space.progress("writing the root file system")
        identifier = str(uuid.UUID(hex=digest[:32]))
        place.look("writing the root file system", _MAKE_EXT4, identifier)
    # A root has all modules of its kernel; without one there are those of the initrd.
    loadable = modules.load_order(_KVM_MODULES) if debian else loaded
    kvm = tuple(name for name in _KVM_MODULES if name in loadable)
    packages = _installed(layers) if debian else []
    return Content(digest, modules.version, packages, kvm, tuple(made))


def _installed(layers: Sequence[Path]) -> list[str]:
    """The packages that dpkg has installed, by the topmost layer that has its list."""
    lists = [layer / "tree/var/lib/dpkg/status" for layer in layers]
    status = [path for path in lists if path.exists()][-1]
    packages = []
    for paragraph in status.read_text(errors="replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
        if fields.get("Status", "").endswith(" installed"):
            packages.append(f"{fields['Package']} {fields['Version']}")
    return sorted(packages)


def _write_initrd(
    recipe: Recipe,
    modules: KernelModules,
    loaded: Sequence[str],
    layers: Sequence[Path],
    archive: CpioWriter,
) -> None:
    """All of the initrd but ``/init``; the agent loads what ``/modules/order`` lists.

    There are other lists beside that, of what only some guests need, and of what it takes to mount
    a root.
    """
    for name in _DIRECTORIES:
        archive.directory(name, 0o1777 if name == "tmp" else 0o755)
    archive.character_device("dev/console", 5, 1)
    lists = {"order": loaded}
    others = _BUS_MODULES | (_ROOT_MODULES if recipe.base == "debian" else {})
    for kind, needed in others.items():
        lists[f"order.{kind}"] = [name for name in modules.load_order(needed) if name not in loaded]
    for name in dict.fromkeys(itertools.chain.from_iterable(lists.values())):
        archive.file(f"modules/{name}.ko", modules.content(name))
    for order, names in lists.items():
        text = "".join(f"/modules/{name}.ko\n" for name in names)
        archive.file(f"modules/{order}", text.encode())
    if recipe.base == "tiny":
        _write_busybox(layers[1] / "tree", archive)
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
