"""The backdoor shell of NixOS's test guests, in the place of an agent.

It runs one command after the other, and gives what the agent gives as far as that goes: a command's
errors appear on the console, and there is neither standard input nor a terminal for it.
"""

from __future__ import annotations

import secrets
import shlex
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from attest.errors import ChannelError, MachineError, reason_of
from attest.guest.backdoor.session import NO_OUTPUT, Request, ShellSession, in_lines
from attest.guest.backdoor.wait import Probe, ShellWait
from attest.guest.channel import (
    Command,
    Completed,
    Follower,
    PowerAction,
    Sink,
    WaitFor,
    Welcome,
)
from attest.guest.identity import Identity
from attest.support.durations import Duration, limit

__all__ = ["ShellChannel", "ShellHost"]

_PROBE: Final = 30.0
"""Seconds that a probe of a wait may take."""

_PIECE: Final = 49_152
"""Bytes that go into the guest with one command."""

_MOUNTED: Final = "/tmp/shared"
"""Where NixOS's test guests have the directory that they share with the host."""

_SHELL: Final = Welcome(version=0, init="systemd", shell="bash")

_COPY: Final = """
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
tar -x -p -f {archive} -C "$work"
target={target}
if test -d "$target"; then target=$target/{name}; fi
mkdir -p "$(dirname "$target")"
if test -d "$work/root" && test -e "$target" && test ! -d "$target"; then rm "$target"; fi
cp -a -T "$work/root" "$target"
"""


class ShellHost(msgspec.Struct, frozen=True):
    """What the host does for a guest that has a shell only.

    Attributes:
        shared_dir: The host's side of the directory that they may share.
        forward: Carries connections to a port of this host's loopback into the guest.
        press: Presses keys in it, by QEMU's names.
    """

    shared_dir: Path
    forward: Callable[[int, int], object]
    press: Callable[[str], None]


class ShellChannel:
    """The connection to the backdoor shell in a machine; see `attest.guest.channel.Channel`.

    Methods can be called from several threads at once; their commands queue.

    Args:
        machine: The machine's name, for errors.
        sock: The connection, which the channel closes.
        host: What the host does for it.
        grace: Seconds in which a shell that is alive has said what became of a command whose time
            is up.
        kill_after: Seconds after its time limit until a command that has not ended by itself is
            killed.
    """

    def __init__(
        self,
        machine: str,
        sock: socket.socket,
        host: ShellHost,
        *,
        grace: float = 60.0,
        kill_after: float = 5.0,
    ) -> None:
        self._machine = machine
        self._sock = sock
        self._host = host
        self._grace = grace
        self._kill_after = kill_after
        self._session = ShellSession(machine, sock)

    @property
    def welcome(self) -> Welcome:
        """What is known of any guest with a backdoor shell: it has systemd and bash."""
        return _SHELL

    # The session

    def connect(self, timeout: float) -> Welcome:
        """Wait for the shell's greeting.

        Raises:
            ChannelError: It did not come in ``timeout`` seconds.
        """
        self._session.connect(timeout)
        return _SHELL

    def reconnect(self, sock: socket.socket, reason: str, *, padding: bool = True) -> None:
        """Begin anew, as after a reboot; `connect` comes next.

        Args:
            sock: The connection, which may be the same as before.
            reason: What happened; whatever is under way fails with a `ChannelError` that says so.
            padding: Has no effect: a shell's greeting is found behind anything else.
        """
        self._session.end(reason)
        self._sock = sock
        self._session = ShellSession(self._machine, sock)

    def interrupt(self, reason: str) -> None:
        """End the session, the connection staying open; `reconnect` comes next, or `close`."""
        self._session.end(reason)

    def close(self) -> None:
        """End the connection, its thread, and everything under way on it."""
        self._session.end("the channel is closed")
        self._sock.close()

    # Commands

    def run(self, command: Command, *, stdout: Sink | None = None) -> Completed:
        """Run a command to its end, see `start`."""
        process = self.start(command, stdout=stdout)
        try:
            return process.wait()
        except BaseException:
            process.abandon()
            raise

    def start(
        self,
        command: Command,
        *,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        follower: Follower | None = None,
    ) -> ShellProcess:
        """Start a command when all before it have ended.

        Args:
            command: The command, whose time limit counts from its beginning. Where its working
                directory is not there, its exit code is 125. It must ask for neither standard input
                nor a terminal: a shell has none for it.
            stdout: Called with its output, in a thread of the channel; default: it is collected.
            stderr: Is never called, as what a command says there goes to the console.
            follower: Is told of its output, in a thread of the channel.

        Raises:
            MachineError: It asks for what a shell cannot do.
        """
        if command.stdin or command.pty is not None:
            what = "a terminal" if command.pty is not None else "standard input"
            raise self._cannot(f"give a command {what}")
        if not command.wait_for_output:
            raise self._cannot("end a command before its processes in the background")
        line = in_lines(f"{shlex.join(_words(command, self._kill_after))} </dev/null")
        line = f"cd /tmp; {line}" if command.strict else line
        return self._submit(line, command.timeout, stdout, follower=follower)

    def _submit(
        self,
        line: str,
        timeout: float | None,
        stdout: Sink | None = None,
        data: bytes = b"",
        follower: Follower | None = None,
    ) -> ShellProcess:
        answer = self._kill_after + self._grace
        process = ShellProcess(
            self._machine, line, timeout, stdout, data, answer=answer, follower=follower
        )
        self._session.submit(process.request)
        return process

    # Waits

    def start_wait(self, wanted: WaitFor) -> ShellWait:
        """Begin a wait; see `attest.guest.agent.channel.AgentChannel.start_wait`."""

        def start(command: str) -> ShellProcess:
            return self.start(Command(command, timeout=_PROBE))

        return ShellWait(self._machine, Probe(wanted), start, wanted)

    # Files

    def put(self, source: Path, target: str) -> list[str]:
        """Copy a file or a tree into the guest, with modes, owners, times and links.

        Through the directory that they share, where the guest has it mounted.

        Args:
            source: What to copy; when it is a link itself, what it leads to.
            target: What it becomes, or an existing directory in which it gets its own name.

        Returns:
            What was left out, and why.

        Raises:
            OSError: Something could not be read on the host.
            MachineError: Something could not be written in the guest.
        """
        with self._shared() as shared:
            if shared is None:
                return self.put_directly(source, target)
            from attest.guest.tar_stream import pack

            with (shared / "archive").open("wb") as archive:
                left_out = pack(source, archive.write)
            self._unpack(f"{_MOUNTED}/{shared.name}/archive", source, target)
        return left_out

    def put_directly(self, source: Path, target: str) -> list[str]:
        """As `put`, but through the shell in any case."""
        from attest.guest.tar_stream import pack

        archive = f"/tmp/attest-{secrets.token_hex(8)}"
        try:
            left_out = pack(source, lambda data: self._append(data, archive))
            self._unpack(archive, source, target)
        finally:
            with suppress(ChannelError):
                self.run(Command(["rm", "-f", archive]))
        return left_out

    def place(self, source: Path, target: str) -> list[str]:
        """Raise an error: nothing is prepared in guests of start scripts.

        Raises:
            MachineError: Always.
        """
        raise MachineError(self._machine, f"cannot copy {source} to {target} over a shell")

    def get(self, source: str, target: Path) -> list[str]:
        """Copy a file or a tree out of the guest.

        As with an agent, links that lead out of the tree are left out, and the target is replaced
        when all is there.

        Args:
            source: What to copy.
            target: What it becomes; its parents are made.

        Returns:
            What was left out, and why.

        Raises:
            MachineError: It could not be read, or not be written on the host.
        """
        from attest.guest.tar_stream import TransferError, unpack

        what = f"copy {source} to {target}"
        with self._archive(source, what) as archive:
            try:
                return unpack(lambda: archive.read(_PIECE), target)
            except (TransferError, OSError) as error:
                raise MachineError(self._machine, f"cannot {what}: {reason_of(error)}") from error

    @contextmanager
    def _archive(self, source: str, what: str) -> Iterator[IO[bytes]]:
        """A tar stream of a file or tree of the guest, whose root is called ``root``."""
        parent, _, name = source.rstrip("/").rpartition("/")
        tar = shlex.join(
            ["tar", "-c", "--format=pax", "--sparse", "--transform=flags=rSh;s|^[^/]*|root|",
             "-C", parent or "/", "--", name]
        )  # fmt: skip
        with self._shared() as shared:
            if shared is None:
                with tempfile.TemporaryFile() as archive:
                    self._require(tar, what, archive.write)
                    archive.seek(0)
                    yield archive
            else:
                self._require(f"{tar} > {_MOUNTED}/{shared.name}/archive", what)
                with (shared / "archive").open("rb") as archive:
                    yield archive

    @contextmanager
    def _shared(self) -> Iterator[Path | None]:
        """A new directory that host and guest share; None where they share none."""
        with tempfile.TemporaryDirectory(dir=self._host.shared_dir, prefix="attest-") as path:
            name = Path(path).name
            mounted = self.run(Command(["test", "-d", f"{_MOUNTED}/{name}"])).status == 0
            yield Path(path) if mounted else None

    def _append(self, data: bytes, path: str) -> None:
        """Append to a file in the guest."""
        import base64

        for start in range(0, len(data), _PIECE):
            encoded = base64.b64encode(data[start : start + _PIECE])
            # `head` reads them in large pieces from the terminal, bash would byte by byte.
            command = f"head -c {len(encoded)} | base64 -d >> {shlex.quote(path)}"
            line = f"{command}; s=(${{PIPESTATUS[*]}}); {NO_OUTPUT}; echo $((s[0] | s[1]))"
            completed = self._submit(line, None, None, encoded).wait()
            if completed.status != 0:
                raise MachineError(self._machine, f"cannot write {path}: see its console")

    def _unpack(self, archive: str, source: Path, target: str) -> None:
        script = _COPY.format(
            archive=archive, target=shlex.quote(target), name=shlex.quote(source.name)
        )
        self._require(f"set -eu; {script}", f"copy {source} to {target}")

    def _require(self, command: str, what: str, stdout: Sink | None = None) -> None:
        command = f"exec 2>&1; {command}" if stdout is None else command
        completed = self.run(Command(command), stdout=stdout)
        if completed.status != 0:
            said = completed.stdout.decode(errors="replace").strip()
            reason = said or f"exit code {completed.status}, see its console"
            raise MachineError(self._machine, f"cannot {what}: {reason}")

    # The machine itself

    def forward(self, host_port: int, guest_port: int) -> object:
        """Carry connections to a port of this host's loopback into the guest.

        Raises:
            HostError: The host's port is taken.
            MachineError: The machine is not on QEMU's user network.
        """
        return self._host.forward(host_port, guest_port)

    def identity(self, identity: Identity) -> None:
        """Refuse, as a guest with a backdoor shell has its identity from its own configuration.

        Raises:
            MachineError: In any case; says so.
        """
        raise self._cannot("tell a guest who it is")

    def power(self, action: PowerAction) -> None:
        """Make the guest leave; returns when it has been told to."""
        if action in (PowerAction.REBOOT, PowerAction.REBOOT_NOW):
            self._host.press("ctrl-alt-delete")
            return
        force = " --force --force" if action is PowerAction.POWER_OFF_NOW else ""
        self._session.submit(Request(f"poweroff{force}", limit=self._grace, sink=None))

    def _cannot(self, what: str) -> MachineError:
        return MachineError(
            self._machine, f"a backdoor shell cannot {what}", hint="machines with an agent can"
        )


def _words(command: Command, kill_after: float) -> list[str]:
    words = []
    if command.timeout is not None:
        limit = max(command.timeout, 0.001)
        words += ["timeout", f"--kill-after={kill_after:g}", f"{limit:.3f}"]
    if command.user:
        words += ["runuser", "--user", command.user, "--"]
    environment = [f"--chdir={command.cwd}"] if command.cwd else []
    environment += [f"{name}={value}" for name, value in (command.env or {}).items()]
    if environment:
        words += ["env", *environment]
    if isinstance(command.command, str):
        return [*words, "bash", *(["-euo", "pipefail"] if command.strict else []), "-c",
                command.command]  # fmt: skip
    return [*words, *command.command]


class ShellProcess:
    """A command under way; see `attest.guest.agent.process.Process`.

    Args:
        machine: The machine's name, for errors.
        line: The command line.
        timeout: Seconds from its beginning, after which it is ended.
        stdout: Takes its output; None collects it.
        data: What the line reads from the shell's own input.
        answer: Seconds after its time limit in which a shell that is alive has said what became of
            it.
        follower: Is told of its output.
    """

    def __init__(
        self,
        machine: str,
        line: str,
        timeout: float | None,
        stdout: Sink | None,
        data: bytes = b"",
        *,
        answer: float,
        follower: Follower | None = None,
    ) -> None:
        self._machine = machine
        self._timeout = timeout
        self._output = bytearray()
        self.request = Request(
            line,
            limit=None if timeout is None else timeout + answer,
            sink=self._take,
            data=data,
        )
        self._sink = stdout or self._output.extend
        self._follower = follower
        self._completed: Completed | None = None

    def wait(self, timeout: Duration | None = None) -> Completed:
        """Wait for its end.

        Raises:
            TimeoutError: It did not end in ``timeout`` seconds.
            ChannelError: The session has ended, or the shell does not answer.
        """
        if self._completed is None:
            self.request.wait(limit(timeout, f"{self._machine}: wait: timeout"))
            self._completed = self._evaluate()
        return self._completed

    def cancel(self) -> None:
        """Wait for it no more; what has begun goes on in the guest, before all that comes."""
        self.request.cancel()

    def abandon(self) -> None:
        """Do the same as `cancel`: a command that has begun cannot be killed."""
        self.request.cancel()

    def read(self, timeout: Duration | None = None) -> bytes:
        """Refuse, as a backdoor shell gives output only when the command has ended.

        Raises:
            MachineError: In any case; says so.
        """
        raise self._cannot("read a command's output as it comes")

    def write(self, data: bytes) -> None:
        """Refuse, as a backdoor shell gives a command no standard input.

        Raises:
            MachineError: In any case; says so.
        """
        raise self._cannot("give a command standard input")

    def feed(self, source: bytes) -> None:
        """Refuse, as `write` does.

        Raises:
            MachineError: In any case; says so.
        """
        self.write(source)

    def close_stdin(self) -> None:
        """Do nothing: its standard input is empty and closed from the start."""

    def resize(self, rows: int, columns: int) -> None:
        """Do nothing: a command of a backdoor shell has no terminal."""

    def _take(self, data: bytes) -> None:
        self._sink(data)
        if self._follower is not None:
            self._follower.output(0, data)

    def _evaluate(self) -> Completed:
        status = self.request.status
        if status is None:
            return Completed(128 + 9, b"", b"", signal=9)
        stdout = bytes(self._output)
        late = self._timeout is not None and self.request.seconds >= self._timeout
        if late and status in (124, 128 + 9):
            return Completed(124, stdout, b"", timed_out=True, signal=9)
        return Completed(status, stdout, b"")

    def _cannot(self, what: str) -> MachineError:
        return MachineError(
            self._machine, f"a backdoor shell cannot {what}", hint="machines with an agent can"
        )
