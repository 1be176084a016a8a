from __future__ import annotations

import io
import subprocess
from pathlib import Path

from attest.image.initrd import CpioWriter


def archive() -> bytes:
    stream = io.BytesIO()
    writer = CpioWriter(stream)
    writer.file("init", b"#!/bin/sh\n", 0o755)
    writer.file("/etc/deep/down/motd", b"hello\n")
    writer.symlink("bin/sh", "/bin/busybox")
    writer.directory("tmp", 0o1777)
    writer.character_device("dev/console", 5, 1)
    writer.finish()
    return stream.getvalue()


def cpio(*options: str, cwd: Path) -> str:
    done = subprocess.run(
        ["cpio", "--quiet", *options], input=archive(), stdout=subprocess.PIPE, check=True, cwd=cwd
    )
    return done.stdout.decode()


def test_cpio_lists_it_with_the_directories_above_each_entry(tmp_path: Path) -> None:
    assert cpio("-t", cwd=tmp_path).split() == [
        "init", "etc", "etc/deep", "etc/deep/down", "etc/deep/down/motd",
        "bin", "bin/sh", "tmp", "dev", "dev/console",
    ]  # fmt: skip


def test_cpio_sees_types_modes_and_owners(tmp_path: Path) -> None:
    lines = {line.split()[-1]: line for line in cpio("-tv", cwd=tmp_path).splitlines()}
    assert lines["init"].startswith("-rwxr-xr-x")
    assert lines["tmp"].startswith("drwxrwxrwt")
    assert lines["dev/console"].startswith("crw-------")
    assert "5,   1" in lines["dev/console"]
    assert "bin/sh -> /bin/busybox" in lines["/bin/busybox"]
    assert all(line.split()[2:4] == ["root", "root"] for line in lines.values())


def test_cpio_unpacks_contents(tmp_path: Path) -> None:
    cpio("-id", "init", "etc/*", "bin/*", cwd=tmp_path)
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "etc/deep/down/motd").read_bytes() == b"hello\n"
    assert (tmp_path / "bin/sh").readlink() == Path("/bin/busybox")


def test_equal_input_gives_equal_bytes_of_whole_words() -> None:
    assert archive() == archive()
    assert len(archive()) % 4 == 0
