"""Running an image's build steps as root of private namespaces.

Inside, the user is root over a range of user ids (a real root stays what it is), mounts are
private, and all processes die with the builder, also when that is killed: each step is the first
process of its own pid namespace, and the kernel sends it SIGKILL when its parent ends.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Final

from attest.errors import HostError, ImageBuildError

__all__ = ["BuildSpace", "removal", "remove_as_root", "require_tools"]

_LAST_LINES: Final = 20
_STAGES: Final = ("I: running apt-get", "I: downloading", "I: extracting", "I: installing")
"""What of mmdebstrap's output is worth telling."""

_PACKAGES: Final = {
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mkfs.erofs": "erofs-utils",
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
    missing = [program for program in programs if not shutil.which(program, path=_path())]
    if missing:
        packages = sorted({_PACKAGES.get(program, program) for program in missing})
        raise HostError(
            f"building this image needs {', '.join(f'`{program}`' for program in missing)}",
            hint=f"apt-get install {' '.join(packages)}",
        )


class BuildSpace:
    """The namespaces of one build.

    Args:
        log: The file that gets all output.
        progress: Told what is being done.

    Raises:
        HostError: This user cannot make them; says what is missing.
    """

    def __init__(self, log: Path, progress: Callable[[str], None]) -> None:
        self.progress = progress
        self.log = log
        _check_namespaces()

    def run(
        self,
        step: str,
        command: Sequence[str],
        *,
        stdin: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Run one step to its end.

        Args:
            step: What it does, for the error message: "installing packages".
            command: The command line.
            stdin: What it reads; nothing by default.
            env: Additions to the environment.

        Raises:
            ImageBuildError: It failed.
        """
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with self.log.open("ab") as log, self._start(command, stdin, env) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    self._follow(line.decode(errors="replace").rstrip(), last)
                status = process.wait()
            finally:
                process.kill()
                process.stdout.read()  # ends when the last process of the step has
        if status:
            raise ImageBuildError(
                f"{step} failed with exit code {status}",
                command=" ".join(command),
                output="\n".join(last),
                log=str(self.log),
            )

    def _follow(self, line: str, last: deque[str]) -> None:
        last.append(line)
        if line.startswith(_STAGES):
            self.progress(line.removeprefix("I: ").removesuffix("..."))

    def _start(
        self, command: Sequence[str], stdin: IO[bytes] | None, env: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*_namespaces(), *command],
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8", **(env or {})},
            umask=0o022,
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
    return [*_namespaces(), "rm", "-rf", "--one-file-system", "--", str(tree)]


def _namespaces() -> list[str]:
    user = ["--user", "--map-root-user", "--map-auto"] if os.geteuid() else []
    return [
        "setpriv", "--pdeathsig", "KILL", "--",
        "unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
    ]  # fmt: skip


def _path() -> str:
    """An ordinary user's PATH may lack where depmod is."""
    return os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


@cache
def _check_namespaces() -> None:
    require_tools("setpriv", "unshare", *(["newuidmap"] if os.geteuid() else []))
    if os.geteuid():
        _check_id_range(Path("/etc/subuid"))
        _check_id_range(Path("/etc/subgid"))
    tried = subprocess.run(
        [*_namespaces(), "true"], capture_output=True, text=True, check=False, errors="replace"
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
    user = getpass.getuser()
    lines = file.read_text().splitlines() if file.exists() else []
    if not any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
        raise HostError(
            f"{file} gives {user} no range of ids, which an image's files belong to",
            hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
        )
