"""The private namespaces in which all processes of one cluster live and with which they all die.

A cell is a process that holds a user, network, PID and mount namespace and reads a pipe whose
other end only the driver has. When the driver goes, for whatever reason, the pipe closes, the
process (PID 1 of the namespace) removes the scratch directory and ends, and the kernel takes
everything else with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attest.errors import HostError
from attest.support.procfs import children

__all__ = ["Cell"]

# `kill -9 -1` spares PID 1 itself, so that the files of the VMMs are removed when nobody writes
# them any more.
_INIT: Final = """
mount -t proc proc /proc && ip link set lo up || exit 1
echo 1 2>/dev/null > /proc/sys/net/ipv6/conf/default/disable_ipv6
echo private
if [ "$2" ]; then ip -batch "/proc/self/fd/$2" || exit 1; fi
echo ready
read -r _
kill -9 -1
rm -rf -- "$1"
exit 0
"""

# Root's user namespace knows only root: what belongs to others, as a jail does, is left to a shell
# outside.
_OUTSIDE: Final = """
scratch=$1; shift
"$@" && rm -rf -- "$scratch"
"""

_AS_ROOT: Final = ("--user", "--map-root-user")
_DIES_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL")


class Cell:
    """A set of namespaces, from construction until `close`.

    It is made in the background; who first uses it waits for it, and gets the errors of `ready`.

    Args:
        scratch: A directory that goes with the cell.
        links: Lines for ``ip -batch``, which make the network in it.
        refused: What to raise when ``ip`` refuses one, of what it says then.
    """

    def __init__(
        self,
        scratch: Path,
        links: Sequence[str] = (),
        refused: Callable[[str], HostError] = HostError,
    ) -> None:
        self.scratch = scratch
        self._links = links
        self._refused = refused
        self._lock = threading.Lock()
        self._enter: list[str] = []
        self._process = self._unshare(_AS_ROOT)

    def ready(self) -> None:
        """Wait until the namespaces and the network are there.

        Raises:
            HostError: This host does not let the user make them.
        """
        with self._lock:
            if not self._enter:
                try:
                    self._await()
                except BaseException:  # what interrupts this leaves no process
                    self.close()
                    raise

    def _await(self) -> None:
        user: Sequence[str] = _AS_ROOT
        if self._says() != b"private\n":
            reason = self._last_words()
            if os.geteuid() != 0:
                raise _refusal(reason)
            user = []  # root needs no user namespace, where they are forbidden
            self._process = self._unshare(user)
            if self._says() != b"private\n":
                self._last_words()
                raise _refusal(reason)
        if self._says() != b"ready\n":
            raise self._refused(self._last_words())
        self._pid = _only_child(_only_child(self._process.pid))
        # Its working directory stays, which is else lost with the change of the mounts.
        self._enter_as_root = [
            "nsenter", "--target", str(self._pid), "--net", "--pid", "--mount", "--wd=.",
        ]  # fmt: skip
        self._enter = [
            *self._enter_as_root, *(["--user", "--preserve-credentials"] if user else []),
        ]  # fmt: skip

    @property
    def pid(self) -> int:
        """The host's number of the process that holds it."""
        self.ready()
        return self._pid

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` inside; it dies with the process so started.

        Until it runs, in the first moment, only a signal to their process group ends both.
        """
        self.ready()
        return [*self._enter, *_DIES_WITH_PARENT, *command]

    def enter_as_root(self, command: Sequence[str]) -> list[str]:
        """As `enter`, but with the rights of the host's root, who runs the driver."""
        self.ready()
        return [*self._enter_as_root, *_DIES_WITH_PARENT, *command]

    def run(self, command: Sequence[str], *, stdin: str = "") -> str:
        """Run a short command inside and return its output.

        Raises:
            subprocess.CalledProcessError: It failed; ``stderr`` says why.
        """
        result = subprocess.run(
            self.enter(command), input=stdin, capture_output=True, text=True, check=True
        )
        return result.stdout

    def disown(self) -> None:
        """Do without its pipe, in a fork of the driver, so that it ends with the driver alone."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def close(self) -> None:
        """End every process inside, remove the scratch directory, and wait until that is done."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _unshare(self, user: Sequence[str]) -> subprocess.Popen[bytes]:
        unshare = shutil.which("unshare")
        if unshare is None:
            raise HostError("`unshare` was not found", hint="apt-get install util-linux")
        with ExitStack() as undo:
            links = _file("\n".join([*self._links, ""])) if self._links else None
            if links is not None:
                undo.callback(os.close, links)
            return subprocess.Popen(
                ["sh", "-c", _OUTSIDE, "cell", str(self.scratch),
                 unshare, *user, "--net", "--pid", "--mount", "--fork", "--kill-child",
                 "sh", "-c", _INIT, "cell", str(self.scratch), str(links or "")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=[] if links is None else [links],
                start_new_session=True,  # Ctrl-C is for the driver, which then closes it in order
            )  # fmt: skip

    def _says(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _last_words(self) -> str:
        return self._process.communicate()[1].decode(errors="replace").strip()


def _refusal(reason: str) -> HostError:
    return HostError(
        f"cannot make a private network and process namespace: {reason or 'no reason given'}",
        hint=(
            "user namespaces must be allowed: `sysctl kernel.unprivileged_userns_clone=1`, "
            "`user.max_user_namespaces` above 0 and, "
            "if AppArmor restricts them, `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; "
            "`attest doctor` shows which"
        ),
    )


def _file(text: str) -> int:
    """A descriptor of a file with this text, in memory."""
    file = os.memfd_create("links")
    os.write(file, text.encode())
    return file


def _only_child(pid: int) -> int:
    (child,) = children(pid)
    return child
