from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from attest.errors import ImageBuildError, RecipeError
from attest.image.kernel import KernelModules, decompress, uncompressed_kernel

ELF = b"\x7fELF" + bytes(range(256)) * 64


def program(*command: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        if not shutil.which(command[0]):
            pytest.skip(f"{command[0]} is not installed")
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    return compress


METHODS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": program("zstd", "-c"),
    "lz4": program("lz4", "-l", "-c"),
}


def bzimage(payload: bytes) -> bytes:
    """Boot sector with the setup header, setup code, a stub, the payload, a signature."""
    setup_sectors, stub = 3, b"decompressor"
    header = bytearray(512 * (setup_sectors + 1))
    header[0x1F1] = setup_sectors
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, len(stub), len(payload))
    return bytes(header) + stub + payload + b"signature"


def with_size(name: str, compressed: bytes, size: int) -> bytes:
    return compressed if name == "gzip" else compressed + struct.pack("<I", size)


@pytest.mark.parametrize("name", METHODS)
def test_the_kernel_comes_out_of_a_bzimage(name: str) -> None:
    payload = with_size(name, METHODS[name](ELF), len(ELF))
    assert uncompressed_kernel(bzimage(payload)) == ELF


@pytest.mark.parametrize("name", ["xz", "zstd", "lz4"])
def test_a_damaged_payload_is_told(name: str) -> None:
    compressed = METHODS[name](ELF)
    payload = with_size(name, compressed[: len(compressed) // 2], len(ELF))
    with pytest.raises(ImageBuildError):
        uncompressed_kernel(bzimage(payload))


def test_a_payload_of_another_size_than_announced_is_told() -> None:
    payload = with_size("xz", lzma.compress(ELF), len(ELF) + 1)
    with pytest.raises(ImageBuildError, match=rf"{len(ELF)} bytes, announced were {len(ELF) + 1}"):
        uncompressed_kernel(bzimage(payload))


def test_what_is_not_compressed_stays() -> None:
    assert uncompressed_kernel(ELF) == ELF
    assert uncompressed_kernel(gzip.compress(ELF)) == ELF
    assert decompress(b"plain") == b"plain"


@pytest.fixture
def modules(tmp_path: Path) -> KernelModules:
    directory = tmp_path / "6.1.0"
    files = {
        "kernel/net/virtio_net.ko": b"net",
        "kernel/net/net_failover.ko": b"net_failover",
        "kernel/net/failover.ko": b"failover",
        "kernel/drivers/virtio.ko.xz": lzma.compress(b"virtio"),
        "kernel/drivers/virtio_ring.ko": b"ring",
    }
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    (directory / "modules.dep").write_text(
        "kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko "
        "kernel/drivers/virtio.ko.xz kernel/drivers/virtio_ring.ko\n"
        "kernel/net/net_failover.ko: kernel/net/failover.ko\n"
        "kernel/net/failover.ko:\n"
        "kernel/drivers/virtio.ko.xz: kernel/drivers/virtio_ring.ko\n"
        "kernel/drivers/virtio_ring.ko:\n"
    )
    (directory / "modules.builtin").write_text("kernel/net/packet/af_packet.ko\n")
    return KernelModules(directory)


def test_modules_come_after_what_they_need(modules: KernelModules) -> None:
    order = modules.load_order(["net-failover", "virtio_net", "af_packet"])
    assert order == ["failover", "net_failover", "virtio_ring", "virtio", "virtio_net"]


def test_modules_are_uncompressed(modules: KernelModules) -> None:
    assert modules.content("virtio") == b"virtio"
    assert modules.content("virtio-net") == b"net"


def test_an_unknown_module_is_told(modules: KernelModules) -> None:
    modules.check(["virtio-net", "af_packet"], "web.toml: modules")
    with pytest.raises(RecipeError, match=r"web\.toml: modules: kernel 6\.1\.0 has .*`warp`"):
        modules.check(["warp"], "web.toml: modules")
