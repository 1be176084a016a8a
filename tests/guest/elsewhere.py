"""A guest that was made elsewhere: Debian with an initrd that knows nothing of attest's.

The initrd does what NixOS's does: it loads modules, finds and mounts the root, and starts systemd.
It also puts the agent into the root, with the unit and the generator that `docs/images.md` shows.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from attest.guest.agent.binary import agent_binary
from attest.image.initrd import CpioWriter
from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore

__all__ = ["built", "describe_debian"]

_DOC = Path(__file__).parents[2] / "docs/images.md"

_INIT = """\
#!/bin/busybox sh
set -eu
busybox mkdir -p /dev /proc /sys /lower /upper /root
busybox mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
for module in $(busybox cat /modules/order /modules/order.union); do busybox insmod $module; done
for serial in /sys/block/*/serial; do
  [ "$(busybox cat $serial)" != root ] || disk=$(busybox basename $(busybox dirname $serial))
done
busybox mount -t ext4 -o ro /dev/$disk /lower
own=$(busybox findfs LABEL=state) && busybox mount -t ext4 "$own" /upper ||
  busybox mount -t tmpfs tmpfs /upper
busybox mkdir -p /upper/upper /upper/work
busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /root
busybox cp -af /put/. /root/
for place in dev proc sys; do busybox mount -o move /$place /root/$place; done
exec busybox switch_root /root /sbin/init
"""


def built(name: str) -> Image:
    """A built-in image."""
    return ImageStore().build(load_recipe(name))


def describe_debian(directory: Path, *cmdline: str, root_label: str = "") -> Path:
    """Describe such a guest in a new file in a directory.

    Args:
        directory: Where the initrd goes, too.
        cmdline: Its kernel parameters.
        root_label: ``"state"``: what it writes to its root goes to a disk.
    """
    debian = built("debian")
    with (directory / "initrd").open("wb") as stream:
        _write_initrd(CpioWriter(stream), _unpacked(directory))
    description = {
        "name": "elsewhere", "arch": debian.arch, "kernel": str(debian.kernel),
        "initrd": "initrd", "root": str(debian.root), "cmdline": cmdline, "init": "systemd",
        "kernel_version": debian.kernel_version, "own_initrd": True,
        "root_label": root_label,
    }  # fmt: skip
    path = directory / "elsewhere.json"
    path.write_text(json.dumps(description))
    return path


def _unpacked(directory: Path) -> Path:
    """The modules of Debian's kernel, and busybox."""
    target = directory / "unpacked"
    target.mkdir()
    for name, pattern in (("debian", "modules/*"), ("tiny", "bin/busybox")):
        with built(name).initrd.open("rb") as archive:
            command = ["cpio", "--quiet", "-id", pattern]
            subprocess.run(command, stdin=archive, cwd=target, check=True)
    return target


def _write_initrd(archive: CpioWriter, content: Path) -> None:
    archive.character_device("dev/console", 5, 1)
    archive.file("init", _INIT.encode(), 0o755)
    for file in content.rglob("*"):
        if file.is_file():
            archive.file(str(file.relative_to(content)), file.read_bytes(), 0o755)
    agent = agent_binary(built("debian").arch).read_bytes()
    archive.file("put/usr/local/bin/attest-agent", agent, 0o755)
    unit, generator = _documented("ini"), _documented("sh")
    units = "put/etc/systemd/system"
    archive.file(f"{units}/attest-agent.service", unit.encode())
    wanted = f"{units}/sysinit.target.wants/attest-agent.service"
    archive.symlink(wanted, "../attest-agent.service")
    archive.file("put/etc/systemd/system-generators/attest", generator.encode(), 0o755)
    archive.finish()


def _documented(language: str) -> str:
    (block,) = re.findall(
        rf"^```{language}\n(.*?)^```$", _DOC.read_text(), re.DOTALL | re.MULTILINE
    )
    return str(block)
