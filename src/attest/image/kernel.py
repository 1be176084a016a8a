"""Kernels: the ELF image inside a compressed one, and an initrd's modules in loading order."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from attest.errors import HostError, ImageBuildError, RecipeError, reason_of
from attest.support.validation import did_you_mean

__all__ = ["KernelModules", "decompress", "uncompressed_kernel"]

_SETUP_HEADER: Final = 0x1F1
"""Where `setup_sects` is; offsets from the kernel's Documentation/arch/x86/boot.rst."""
_HEADER_MAGIC: Final = (0x202, b"HdrS")
_PAYLOAD: Final = 0x248
"""Where `payload_offset` and `payload_length` are."""
_SECTOR: Final = 512


def uncompressed_kernel(kernel: bytes) -> bytes:
    """The kernel as an ELF file (x86) or a plain image (ARM).

    Args:
        kernel: A ``bzImage``, a compressed image, or one that is not compressed (returned as it
        is).

    Raises:
        ImageBuildError: The content is not what its header says.
        HostError: The program that decompresses it is missing.
    """
    offset, magic = _HEADER_MAGIC
    if kernel[offset : offset + len(magic)] == magic:
        return _bzimage_payload(kernel)
    return decompress(kernel) if kernel.startswith(b"\x1f\x8b") else kernel


def _bzimage_payload(kernel: bytes) -> bytes:
    setup_sectors = kernel[_SETUP_HEADER] or 4
    offset, length = struct.unpack_from("<II", kernel, _PAYLOAD)
    start = (setup_sectors + 1) * _SECTOR + offset
    payload = kernel[start : start + length]
    # The build appends the uncompressed size, which gzip has at this place of its own accord.
    size = int.from_bytes(payload[-4:], "little")
    image = decompress(payload if payload.startswith(b"\x1f\x8b") else payload[:-4])
    if len(image) != size:
        raise ImageBuildError(f"the kernel's payload has {len(image)} bytes, announced were {size}")
    return image


def decompress(data: bytes) -> bytes:
    """Decompress gzip, xz, lzma, bzip2, zstd or lz4; other data is returned as it is.

    Raises:
        ImageBuildError: The data are damaged.
        HostError: The program that decompresses it is missing.
    """
    for magic, method in _METHODS.items():
        if data.startswith(magic):
            try:
                return method(data)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise ImageBuildError(f"damaged compressed data: {reason_of(error)}") from None
    return data


def _gunzip(data: bytes) -> bytes:
    return zlib.decompress(data, wbits=zlib.MAX_WBITS | 16)


def _program(name: str) -> Callable[[bytes], bytes]:
    """Neither zstd nor lz4 is in the standard library; the programs are packaged everywhere."""

    def run(data: bytes) -> bytes:
        if not shutil.which(name):
            raise HostError(
                f"`{name}` is missing, the kernel is compressed with it",
                hint=f"apt-get install {name}",
            )
        done = subprocess.run([name, "-d", "-c"], input=data, capture_output=True, check=False)
        if done.returncode:
            raise ImageBuildError(
                f"{name} cannot decompress the kernel",
                command=f"{name} -d -c",
                output=done.stderr.decode(errors="replace"),
            )
        return done.stdout

    return run


_METHODS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": _gunzip,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x5d\x00\x00": lzma.decompress,
    b"BZh": bz2.decompress,
    b"\x28\xb5\x2f\xfd": _program("zstd"),
    b"\x02\x21\x4c\x18": _program("lz4"),
}


class KernelModules:
    """The modules of one kernel, as depmod has listed them.

    Args:
        directory: ``…/lib/modules/VERSION`` with `modules.dep` and `modules.builtin`.

    Attributes:
        directory: The same.
        version: The kernel's version, as ``uname -r`` has it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.version = directory.name
        self._needs: dict[str, list[str]] = {}
        self._paths: dict[str, str] = {}
        for line in (directory / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            self._paths[_name(path)] = path
            self._needs[_name(path)] = [_name(need) for need in needs.split()]
        builtin = (directory / "modules.builtin").read_text().splitlines()
        self._builtin = {_name(path) for path in builtin}

    def check(self, names: Iterable[str], where: str) -> None:
        """Require that the kernel knows each of the names.

        Raises:
            RecipeError: It does not; the message starts with ``where``.
        """
        for name in names:
            if _name(name) not in self._paths and _name(name) not in self._builtin:
                raise RecipeError(
                    f"{where}: kernel {self.version} has no module `{name}`",
                    hint=did_you_mean(_name(name), [*self._paths, *self._builtin]),
                )

    def load_order(self, names: Iterable[str]) -> list[str]:
        """The loadable ones of the named modules and all they need, each after what it needs."""
        order: list[str] = []
        for name in map(_name, names):
            # depmod lists a module's needs, however indirect, so that loading from the right works.
            for needed in [*reversed(self._needs.get(name, [])), name]:
                if needed in self._paths and needed not in order:
                    order.append(needed)
        return order

    def content(self, name: str) -> bytes:
        """Read the content of a module, and decompress it where it is compressed."""
        return decompress((self.directory / self._paths[_name(name)]).read_bytes())


def _name(path: str) -> str:
    """A module's name: the kernel takes ``-`` and ``_`` for the same."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
