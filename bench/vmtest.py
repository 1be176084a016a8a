"""vmtest (https://github.com/danobi/vmtest): Debian's generic kernel, with a directory as its root.

The kernel has 9p and virtio as modules, so that it is given an initramfs, which loads them, mounts
the root as vmtest's command line says, and goes on with vmtest's init. vmtest takes KVM wherever
there is a `/dev/kvm`, and the first QEMU on PATH: that is one which takes software emulation.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from attest.image.initrd import CpioWriter
from attest.image.model import Image
from attest.vmm.qemu.binary import find_qemu

__all__ = ["environment", "prepare", "version"]

_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p")

_INIT = """\
#!/busybox sh
/busybox mkdir /proc /root
/busybox mount -t proc proc /proc
for module in {modules}; do /busybox insmod /$module; done
for word in $(/busybox cat /proc/cmdline); do
    case $word in
        init=*) init=${{word#init=}} ;;
        rootflags=*) flags=${{word#rootflags=}} ;;
    esac
done
/busybox mount -t 9p -o "$flags" /dev/root /root
exec /busybox switch_root /root "$init"
"""

_QEMU = """\
#!/bin/bash
for word in "$@"; do
    case $word in
        -enable-kvm) ;;
        host | qemu64) words+=(max) ;;
        *) words+=("$word") ;;
    esac
done
exec {qemu} -accel tcg "${{words[@]}}"
"""


def prepare(place: Path, image: Image, root: Path, busybox: Path) -> Path:
    """Write what a run needs into a directory: ``vmtest.toml``, an initramfs, and ``bin``.

    Args:
        place: The directory.
        image: The kernel's.
        root: The files of that image, which has qemu-ga.
        busybox: A static one.

    Returns:
        The configuration.
    """
    initramfs = place / "initramfs"
    with initramfs.open("wb") as stream:
        archive = CpioWriter(stream)
        modules = {path.name: path for path in _needed(root / "lib/modules" / image.kernel_version)}
        archive.file("init", _INIT.format(modules=" ".join(modules)).encode(), 0o755)
        archive.file("busybox", busybox.read_bytes(), 0o755)
        archive.character_device("dev/console", 5, 1)
        for name, path in modules.items():
            archive.file(name, path.read_bytes())
        archive.finish()
    qemu = place / "bin" / "qemu-system-x86_64"
    qemu.parent.mkdir()
    qemu.write_text(_QEMU.format(qemu=find_qemu().path))
    qemu.chmod(0o755)
    configuration = place / "vmtest.toml"
    configuration.write_text(
        "[[target]]\n"
        'name = "true"\n'
        f'kernel = "{image.kernel}"\n'
        f'rootfs = "{root}"\n'
        'command = "true"\n'
        'vm = { memory = "512M", num_cpus = 1, '
        f'extra_args = ["-initrd", "{initramfs}"] }}\n'
    )
    return configuration


def environment(place: Path) -> dict[str, str]:
    """The environment of a run."""
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}


def version(program: str) -> str:
    """What it says that it is."""
    command = [program, "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _needed(modules: Path) -> Iterator[Path]:
    """The files of `_MODULES` and of those that they need, which come first."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[Path(path).name.partition(".")[0]] = [*reversed(shlex.split(others)), path]
    return (modules / path for name in _MODULES for path in needs.get(name, []))
