"""Running commands as root of private namespaces, without being root.

A user gets a range of ids from /etc/subuid and /etc/subgid, see user_namespaces(7).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from attest.errors import HostError

__all__ = [
    "check_namespaces", "namespaces", "program_path", "removal", "remove_as_root", "require_tools",
]  # fmt: skip

_PACKAGES: Final = {
    "apt-get": "apt",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mkfs.ext4": "e2fsprogs",
    "newuidmap": "uidmap",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""The Debian package of a program, where it has another name."""


def require_tools(*programs: str) -> None:
    """Require that the programs are installed.

    Raises:
        HostError: Some are missing; names them and their packages.
    """
    missing = [program for program in programs if not shutil.which(program, path=program_path())]
    if missing:
        packages = sorted({_PACKAGES.get(program, program) for program in missing})
        raise HostError(
            f"building this image needs {', '.join(f'`{program}`' for program in missing)}",
            hint=f"apt-get install {' '.join(packages)}",
        )


def remove_as_root(tree: Path) -> None:
    """Remove a tree with files of all ids that a build's namespace has.

    Raises:
        HostError: It could not be removed.
    """
    done = subprocess.run(removal(tree), capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"cannot remove {tree}: {done.stderr.strip()}")


def removal(tree: Path) -> list[str]:
    """The command that removes a tree with files of all ids that a build's namespace has."""
    return [*namespaces(), "rm", "-rf", "--one-file-system", "--", str(tree)]


def namespaces() -> list[str]:
    """What comes before a command that is to run as root of private namespaces.

    The user is root there over a range of user ids (a real root stays what it is), mounts are
    private, and the command is the first process of its pid namespace: when it ends, or when its
    parent does, all that it has started ends.
    """
    user = ["--user", "--map-root-user", "--map-auto"] if os.geteuid() else []
    return [
        "setpriv", "--pdeathsig", "KILL", "--",
        "unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
    ]  # fmt: skip


def program_path() -> str:
    """PATH with where system programs are, which an ordinary user's may lack."""
    return os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


@cache
def check_namespaces() -> None:
    """Require that this user can make such namespaces.

    Raises:
        HostError: It cannot; says what is missing.
    """
    require_tools("setpriv", "unshare", *(["newuidmap"] if os.geteuid() else []))
    if os.geteuid():
        _check_id_range(Path("/etc/subuid"))
        _check_id_range(Path("/etc/subgid"))
    tried = subprocess.run(
        [*namespaces(), "true"], capture_output=True, text=True, check=False, errors="replace"
    )
    if tried.returncode:
        setting = "user.max_user_namespaces, kernel.unprivileged_userns_clone and AppArmor's "
        raise HostError(
            f"cannot make the build's namespaces: {tried.stderr.strip()}",
            hint=f"sysctl {setting}kernel.apparmor_restrict_unprivileged_userns decide"
            if os.geteuid()
            else "root needs CAP_SYS_ADMIN; in a container it often has not",
        )


def _check_id_range(file: Path) -> None:
    import getpass  # only images are built by users that need it

    user = getpass.getuser()
    lines = file.read_text().splitlines() if file.exists() else []
    if not any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
        raise HostError(
            f"{file} gives {user} no range of ids, which an image's files belong to",
            hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
        )
