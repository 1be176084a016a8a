"""Firecracker's jailer: a process that sees only the files it is shown, as a user of its own.

The jailer makes a root directory with the devices that Firecracker opens, and becomes another user
there. What a machine needs is mounted into that directory, in a mount namespace that goes with the
process. See docs/jailer.md of Firecracker.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attest.errors import HostError
from attest.vmm.workdir import remove_at_once

__all__ = ["Jail", "check_root", "find_jailer"]

_ID: Final = "vm"

_FIRST_USER: Final = 0x4000_0000
_USERS: Final = 0x0100_0000
"""User ids that no account, and no range for namespaces, has."""

# The devices have to be on a file system that allows any, which that of the scratch directory may
# not be.
_ENTER: Final = """
root=$1; shift
mount -t tmpfs -o mode=0755 jail "$root/dev" || exit 1
while [ "$1" != -- ]; do
    mount --bind "$1" "$root/$2" || exit 1
    shift 2
done
shift
exec "$@"
"""


def find_jailer(firecracker: Path) -> Path:
    """The jailer: ``$ATTEST_JAILER``, else the one beside a Firecracker, else the one on PATH.

    Args:
        firecracker: The program; releases have both, with equal ends of their names.

    Raises:
        HostError: There is none.
    """
    beside = firecracker.with_name(firecracker.name.replace("firecracker", "jailer"))
    for wanted in (os.environ.get("ATTEST_JAILER"), str(beside), "jailer"):
        if wanted and (found := shutil.which(wanted)):
            return Path(found).absolute()
    raise HostError(
        "`jail = true`: Firecracker's jailer was not found",
        hint="it is in Firecracker's release; put it beside Firecracker, or its path into "
        "ATTEST_JAILER",
    )


def check_root() -> None:
    """Require what the jailer needs: to be the host's root, who can make devices.

    Raises:
        HostError: It is not.
    """
    host = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    if os.geteuid() != 0 or not host:
        who = "root of a user namespace only" if os.geteuid() == 0 else "not root"
        raise HostError(
            f"`jail = true`: the jailer needs the host's root, and this is {who}",
            hint="run attest as root, or without `jail`: Firecracker is in namespaces of its own "
            "and under seccomp in any case",
        )


class Jail:
    """A working directory that is all that a Firecracker sees, see `attest.vmm.workdir.Workdir`.

    Args:
        parent: Where it is made.
        firecracker: The program.

    Attributes:
        path: Where it is on the host.
        user: The number of the user and group that the process becomes.

    Raises:
        HostError: There is no jailer, or this is not the host's root.
    """

    def __init__(self, parent: Path, firecracker: Path) -> None:
        check_root()
        self._jailer = find_jailer(firecracker)
        self._base = Path(tempfile.mkdtemp(prefix="jail-", dir=parent)).absolute()
        self.path = self._base / firecracker.name / _ID / "root"
        self.user = _FIRST_USER + self._base.stat().st_ino % _USERS
        self._mounts: list[str] = []
        for directory in (self.path, self.path / "dev"):
            directory.mkdir(parents=True)

    def show(self, name: str, file: Path, *, writable: bool = False) -> None:
        """Let the VMM have a file under a name, before it starts."""
        (self.path / name).touch()
        if writable:
            os.chown(file, self.user, self.user)
        self._mounts += [str(file.resolve()), name]

    def command(self, program: Path, arguments: Sequence[str]) -> list[str]:
        """The command line that runs a program there."""
        user = str(self.user)
        return [
            "unshare", "--mount", "sh", "-c", _ENTER, "jail", str(self.path), *self._mounts, "--",
            str(self._jailer), "--id", _ID, "--exec-file", str(program), "--uid", user,
            "--gid", user, "--chroot-base-dir", str(self._base), "--", *arguments,
        ]  # fmt: skip

    @contextmanager
    def receive(self, directory: Path) -> Iterator[str]:
        """The name of a directory into which the VMM writes.

        Args:
            directory: What it has written is there at the end.
        """
        inside = self.path / "received"
        inside.mkdir(mode=0o700)
        os.chown(inside, self.user, self.user)
        try:
            yield inside.name
            for file in inside.iterdir():
                os.chown(file, 0, 0)
                file.chmod(0o644)  # other clones' users read it
                shutil.move(file, directory / file.name)
        finally:
            shutil.rmtree(inside, ignore_errors=True)

    def remove(self) -> None:
        """Remove it, with all that is left in it."""
        remove_at_once(self._base)
