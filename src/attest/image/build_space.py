"""Running an image's build steps as root of private namespaces.

Inside, the user is root over a range of user ids (a real root stays what it is), mounts are
private, and all processes die with the builder, also when that is killed: each step is the first
process of its own pid namespace, and the kernel sends it SIGKILL when its parent ends.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from attest.errors import ImageBuildError
from attest.support.cancellation import cancellable
from attest.support.user_namespace import check_namespaces, namespaces, program_path

__all__ = ["BuildSpace"]

_LAST_LINES: Final = 20


def _ignore(_line: str) -> None:
    pass


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
        check_namespaces()

    def run(
        self,
        step: str,
        command: Sequence[str],
        *,
        stdin: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        follow: Callable[[str], None] = _ignore,
        shown: str = "",
    ) -> None:
        """Run one step to its end.

        Args:
            step: What it does, for the error message: "installing packages".
            command: The command line.
            stdin: What it reads; nothing by default.
            env: Additions to the environment.
            cwd: The directory that it runs in.
            follow: Called with each line of its output.
            shown: The command for the error, where that is no long script of attest's.

        Raises:
            ImageBuildError: It failed.
            Cancelled: The scope in which this thread builds was cancelled.
        """
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with (
            self.log.open("ab") as log,
            self._start(command, stdin, env, cwd) as process,
            cancellable(process.kill),
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    text = line.decode(errors="replace").rstrip()
                    last.append(text)
                    follow(text)
                status = process.wait()
            finally:
                process.kill()
                process.stdout.read()  # ends when the last process of the step has
        if status:
            raise ImageBuildError(
                f"{step} failed with exit code {status}",
                command=shown or " ".join(command),
                output="\n".join(last),
                log=str(self.log),
            )

    def _start(
        self,
        command: Sequence[str],
        stdin: IO[bytes] | None,
        env: Mapping[str, str] | None,
        cwd: Path | None,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*namespaces(), *command],
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": program_path(), "LC_ALL": "C.UTF-8", **(env or {})},
            cwd=cwd,
            umask=0o022,
        )
