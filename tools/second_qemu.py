"""A second QEMU version for the tests, unpacked into the cache and not installed.

Debian's release and its backports differ by years of QEMU, and users have either. The tests run
with both: the one that is installed, and the other, which this puts at
`CACHE/qemu/VERSION/bin/qemu-system-ARCHITECTURE`.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from debian import Package, PrivateApt

__all__ = ["bring"]

# The firmware is of one version with the program that loads it.
_QEMU_PACKAGES: Final = re.compile(r"qemu|seabios|ipxe-qemu")

_WRAPPER: Final = """\
#!/bin/sh
root={root}
LD_LIBRARY_PATH=$root/usr/lib/{triplet}:$root/lib/{triplet}
QEMU_MODULE_DIR=$root/usr/lib/{triplet}/qemu
export LD_LIBRARY_PATH QEMU_MODULE_DIR
exec "$root/usr/bin/{program}" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
"""


def bring(apt: PrivateApt, package: str, cache: Path) -> None:
    """Unpack each QEMU that this release or its backports offer beside the installed one.

    Args:
        apt: Where packages come from.
        package: The package that holds this architecture's system emulator.
        cache: The cache's ``qemu`` directory.
    """
    program = f"qemu-system-{platform.machine()}"
    installed = _version(program)
    record = cache / "checked"
    if record.exists() and record.read_text() == f"{apt.backports} {installed}":
        return
    cache.mkdir(parents=True, exist_ok=True)
    apt.update()
    for release in ["", apt.backports] if apt.has_backports else [""]:
        plan = _plan(apt, package, release)
        version = next(_short(part.version) for part in plan if part.name == package)
        if version != installed and not (cache / version).exists():
            print(
                f"unpacking QEMU {version} beside {installed}: the tests run with both", flush=True
            )
            _unpack(apt, plan, cache / version, program)
    record.write_text(f"{apt.backports} {installed}")


def _version(program: str) -> str:
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return _short(output.stdout.partition("version ")[2])


def _short(version: str) -> str:
    match = re.match(r"(?:\d+:)?(\d+\.\d+)", version)
    assert match, version
    return match[1]


def _plan(apt: PrivateApt, package: str, release: str) -> list[Package]:
    """What is to be unpacked: the package and what it needs that this machine has not."""
    stanzas = Path("/var/lib/dpkg/status").read_text().split("\n\n")
    others = [part for part in stanzas if not _QEMU_PACKAGES.match(part.removeprefix("Package: "))]
    with tempfile.NamedTemporaryFile("w") as status:
        status.write("\n\n".join(others))
        status.flush()
        return apt.plan(package, release=release, status=Path(status.name))


def _unpack(apt: PrivateApt, plan: Sequence[Package], target: Path, program: str) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        archives, root = Path(directory, "archives"), Path(directory, "root")
        archives.mkdir()
        apt.download(plan, archives)
        for archive in archives.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
        shutil.rmtree(root / "usr/share/doc", ignore_errors=True)
        wrapper = root / "bin" / program
        wrapper.parent.mkdir(exist_ok=True)
        triplet = f"{platform.machine()}-linux-gnu"
        wrapper.write_text(_WRAPPER.format(root=target, triplet=triplet, program=program))
        wrapper.chmod(0o755)
        root.rename(target)
    subprocess.run([target / "bin" / program, "--version"], check=True, stdout=subprocess.DEVNULL)
