#!/usr/bin/env python3
"""Set this checkout up: Debian packages, Python environment, programs in C.

What is there already is left alone.

Usage: tools/setup.py run|lint|test

    run   what `attest` needs to build images, check scripts and run machines
    lint  what the code's checks need
    test  all of it, and what the tests need besides, such as a second QEMU version
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

if sys.version_info < (3, 11):  # noqa: UP036 - not installed yet, so nothing else checks it
    raise SystemExit(f"attest needs Python 3.11 or later; this is {platform.python_version()}")

import python_env
import second_qemu
from debian import PrivateApt
from progress import Progress

_ROOT: Final = Path(__file__).resolve().parents[1]
_SBIN: Final = "/usr/sbin:/sbin"  # not on an ordinary user's PATH in Debian


@dataclass(frozen=True)
class Need:
    """A Debian package, and how to see that what it brings is there.

    Attributes:
        package: Its name.
        brings: A command, an absolute path, or ``module:NAME`` for a Python module.
        why: What it is for.
    """

    package: str
    brings: str
    why: str

    def met(self) -> bool:
        """What the package brings is there, from the package or from elsewhere."""
        if self.brings.startswith("module:"):
            return importlib.util.find_spec(self.brings.partition(":")[2]) is not None
        if self.brings.startswith("/"):
            return Path(self.brings).exists()
        return shutil.which(self.brings, path=f"{os.environ['PATH']}:{_SBIN}") is not None


_EMULATOR: Final = "qemu-system-arm" if platform.machine() == "aarch64" else "qemu-system-x86"

_QEMU: Final = [
    Need(_EMULATOR, f"qemu-system-{platform.machine()}", "runs the machines"),
    Need("qemu-utils", "qemu-img", "makes machines' disks"),
]
_VENV: Final = [Need("python3-venv", "module:ensurepip", "makes the Python environment")]
_RUN: Final = [
    Need("mmdebstrap", "mmdebstrap", "builds Debian images"),
    Need("e2fsprogs", "mkfs.ext4", "makes file systems"),
    Need("lz4", "lz4", "unpacks images' kernels"),
    Need(
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "verifies the packages of images",
    ),
    Need("uidmap", "newuidmap", "lets ordinary users build images"),
    Need("iproute2", "ip", "makes the networks between machines"),
    Need("util-linux", "unshare", "makes the namespaces that machines live in"),
    Need("kmod", "modprobe", "finds the kernel modules a guest needs"),
]
_TEST: Final = [
    Need("gcc", "gcc", "compiles the programs in C with sanitizers"),
    Need("libc6-dev", "/usr/include/stdlib.h", "compiles the programs in C with sanitizers"),
    Need("erofs-utils", "mkfs.erofs", "makes roots of another kind than images have"),
    Need("cpio", "cpio", "lets the tests read initrds"),
    Need("openssh-client", "ssh-keygen", "makes SSH host keys for the tests"),
    Need("socat", "socat", "opens shells in machines elsewhere than on the terminal"),
    Need("tesseract-ocr", "tesseract", "reads the text that machines show"),
    Need("jq", "jq", "is what the script that pins a Firecracker needs"),
    Need("shellcheck", "shellcheck", "checks the scripts of the shell"),
    Need("vde2", "vde_switch", "is what NixOS's driver connects machines with"),
]
_NIX: Final = [
    Need("nix-bin", "nix-build", "lets the tests run attest in builds by Nix"),
    Need("bash-static", "/usr/bin/bash-static", "is the shell in the sandboxes of those builds"),
]

_PURPOSES: Final = {
    "run": (_RUN, _QEMU, ["run", "check", "build"]),
    "lint": ([], [], ["dev", "build"]),
    "test": ([*_RUN, *_TEST], _QEMU, ["dev", "build"]),
}


def main(purpose: str) -> None:
    """Set up for a purpose, one of those in the module's usage."""
    needs, qemu, locks = _PURPOSES[purpose]
    test = purpose == "test"
    progress = Progress()
    apt = PrivateApt(_cache() / "apt", lambda text: progress.tell("Debian packages", text))
    missing = _missing([*_VENV, *needs, *qemu, *(_NIX if test else [])])
    _announce(missing)
    if missing:
        apt.update()
    _install(apt, _missing(_VENV))
    # apt waits for the network and the disk, the compiler for the processor: they go together.
    with ThreadPoolExecutor() as pool:
        packages = pool.submit(_packages, apt, needs, qemu, test=test)
        python_env.bring(_ROOT, locks, lambda text: progress.tell("Python packages", text))
        agent = [_ROOT / ".venv/bin/python", _ROOT / "tools/build_programs.py"]
        if status := subprocess.call(agent):
            raise SystemExit(status)
        packages.result()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "attest"


def _missing(needs: Sequence[Need]) -> list[Need]:
    return [need for need in needs if not need.met()]


def _announce(missing: Sequence[Need]) -> None:
    if not missing:
        return
    print("missing on this machine, and installed now:")
    for need in missing:
        print(f"  {need.package:22} {need.why}", flush=True)
    if not shutil.which("apt-get"):
        raise SystemExit("this is not a Debian system: install what brings these, then try again")


def _packages(apt: PrivateApt, needs: Sequence[Need], qemu: Sequence[Need], *, test: bool) -> None:
    _install(apt, _missing(needs))
    if missing := _missing(qemu):
        if not apt.has_backports:
            print(f"{apt.backports} is not at the mirror: taking the release's own, older QEMU")
        _install(apt, missing, release=apt.backports if apt.has_backports else "")
    if test and shutil.which("apt-get"):
        try:
            second_qemu.bring(apt, _EMULATOR, _cache() / "qemu")
        except SystemExit as error:
            print(f"{error}\nso there is no second QEMU: the tests run with the installed one only")
        try:
            _install(apt, _missing(_NIX))
        except SystemExit as error:
            print(f"{error}\nso there is no Nix: the tests in tests/nix are skipped")


def _install(apt: PrivateApt, needs: Sequence[Need], *, release: str = "") -> None:
    if needs:
        apt.install([need.package for need in needs], release=release)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in _PURPOSES:
        raise SystemExit(__doc__)
    main(sys.argv[1])
