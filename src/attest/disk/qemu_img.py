"""Disks of machines as files: empty ones, and ones that begin as other images.

A qcow2 file is an overlay of the other image: it holds what differs from that, which is only read,
may have any number of overlays, and is named in them by its absolute path. A raw one is a sparse
copy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, Literal

import msgspec

from attest.errors import HostError
from attest.support.user_namespace import program_path
from attest.vmm.qemu.binary import QemuBinary, find_qemu

__all__ = [
    "ChainFile", "chain", "create", "create_ext4", "find_qemu_img", "image_format",
    "rebase",
]  # fmt: skip

_PROGRAM: Final = "qemu-img"


class ChainFile(msgspec.Struct, frozen=True):
    """One file of a disk, and its format as QEMU names it."""

    path: Path
    format: str


@cache
def find_qemu_img(qemu: QemuBinary | None = None) -> Path:
    """The `qemu-img` beside the QEMU in use, else the one on PATH.

    Args:
        qemu: The QEMU in use; default: the host's.

    Raises:
        HostError: There is none.
    """
    beside = (qemu or find_qemu()).path.with_name(_PROGRAM)
    path = shutil.which(beside) or shutil.which(_PROGRAM)
    if path is None:
        raise HostError(
            f"`{_PROGRAM}`, which makes machines' disks, was not found",
            hint="apt-get install qemu-utils",
        )
    return Path(path)


def create(
    path: Path,
    size_mib: int | None = None,
    backing: Path | None = None,
    format: Literal["qcow2", "raw"] = "qcow2",
    *,
    backing_format: str = "",
    qemu: QemuBinary | None = None,
) -> None:
    """Make a disk: empty, or with the content of another image.

    Args:
        path: The new file.
        size_mib: Its size in MiB; by default the backing file's.
        backing: The image whose content it begins with, of any format that QEMU reads. It must
            stay as it is for as long as a qcow2 disk is used.
        format: Its own.
        backing_format: The image's; default: what it looks like, which a guest that has written a
            raw image may have chosen.
        qemu: The QEMU in use, see `find_qemu_img`; the same with all that follow.

    Raises:
        HostError: It cannot be made, or there is no `qemu-img`.
    """
    if format == "raw" and backing is not None:
        source = backing_format or image_format(backing, qemu=qemu)
        files = [str(backing.absolute()), str(path.absolute())]
        _run(["convert", "-q", "-f", source, "-O", format, *files], qemu)
        return
    command = ["create", "-q", "-f", format]
    if backing is not None:
        command += ["-b", str(backing.absolute()), "-F"]
        command.append(backing_format or image_format(backing, qemu=qemu))
    command.append(str(path.absolute()))
    if size_mib is not None:
        command.append(f"{size_mib}M")
    _run(command, qemu)


def create_ext4(
    path: Path,
    size_mib: int,
    label: str,
    format: Literal["qcow2", "raw"],
    *,
    qemu: QemuBinary | None = None,
) -> None:
    """Make a disk with an ext4 file system that has nothing in it.

    Args:
        path: The new file.
        size_mib: Its size in MiB.
        label: The file system's.
        format: The file's.
        qemu: The QEMU in use.

    Raises:
        HostError: It cannot be made, or there is no `mkfs.ext4`, or no `qemu-img`.
    """
    raw = path if format == "raw" else path.with_suffix(".raw")
    mkfs = shutil.which("mkfs.ext4", path=program_path())
    if mkfs is None:
        raise HostError(
            "`mkfs.ext4`, which makes the disks of machines' roots, was not found",
            hint='apt-get install e2fsprogs, or `root = "memory"`',
        )
    with raw.open("xb") as file:
        file.truncate(size_mib << 20)
    command = [mkfs, "-q", "-L", label, "-J", "size=16", "-m", "1", str(raw)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise HostError(f"cannot make {path}: {made.stderr.strip()}")
    if raw != path:
        _run(["convert", "-q", "-f", "raw", "-O", format, str(raw), str(path.absolute())], qemu)
        raw.unlink()


def image_format(path: Path, *, qemu: QemuBinary | None = None) -> str:
    """The format of an image, as QEMU names it: ``"qcow2"``, ``"raw"`` and so on.

    Raises:
        HostError: It cannot be read, or there is no `qemu-img`.
    """
    told = _run(["info", "--output=json", str(path.absolute())], qemu)
    format: str = json.loads(told)["format"]
    return format


def chain(
    path: Path, format: Literal["qcow2", "raw"] = "qcow2", *, qemu: QemuBinary | None = None
) -> list[ChainFile]:
    """The files of a disk: itself, what it is an overlay of, and so on to the last.

    Args:
        path: The disk.
        format: Its format. It is not looked for: a guest may write to a raw disk what looks like an
            overlay of any file of this host.
        qemu: The QEMU in use.

    Raises:
        HostError: One cannot be read, or there is no `qemu-img`.
    """
    if format == "raw":
        return [ChainFile(path.absolute(), format)]
    options = ["-f", format, "--backing-chain", "--output=json"]
    told = _run(["info", *options, str(path.absolute())], qemu)
    return [ChainFile(Path(layer["filename"]), layer["format"]) for layer in json.loads(told)]


def rebase(path: Path, backing: ChainFile, *, qemu: QemuBinary | None = None) -> None:
    """Say where an overlay's backing file is now.

    Args:
        path: The overlay, which nobody uses.
        backing: The same content as before; a relative path is relative to the overlay.
        qemu: The QEMU in use.

    Raises:
        HostError: The overlay cannot be written, or there is no `qemu-img`.
    """
    _run(["rebase", "-q", "-u", "-b", str(backing.path), "-F", backing.format, str(path)], qemu)


def _run(arguments: Sequence[str], qemu: QemuBinary | None) -> str:
    result = subprocess.run(
        [find_qemu_img(qemu), *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise HostError(result.stderr.strip().removeprefix(f"{_PROGRAM}: "))
    return result.stdout
