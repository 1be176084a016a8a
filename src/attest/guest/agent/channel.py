"""The connection to a machine's agent: commands, waits, files, connections, identity, power."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from attest.errors import ChannelError, MachineError, reason_of
from attest.guest.agent.forward import Connection, PortForward
from attest.guest.agent.identity import encode_identity
from attest.guest.agent.process import Process
from attest.guest.agent.protocol import (
    ConnectField,
    CopyField,
    ExecField,
    ExecFlag,
    Fields,
    Operation,
    PowerField,
    Result,
    Status,
    WaitField,
    WaitFlag,
    decode_pairs,
    encode_terminal_size,
)
from attest.guest.agent.session import Session
from attest.guest.agent.stream import Limit, Stream, StreamEnded
from attest.guest.agent.wait import Wait
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

__all__ = ["AgentChannel"]


class AgentChannel:
    """The connection to the agent in a machine.

    Methods can be called from several threads at once. Those that talk to the agent raise
    `ChannelError` when the session ends meanwhile, and when it has ended.

    Args:
        machine: The machine's name, for errors.
        sock: The connection, which the channel closes.
        padding: The connection may carry remains of an earlier session.
        on_closed: Called, in a thread of the channel, when the session ends other than by `close`
            or `reconnect`.
        grace: Seconds for what an agent that is alive does at once; a busy host may starve a guest
            for long.
    """

    def __init__(
        self,
        machine: str,
        sock: socket.socket,
        *,
        padding: bool = False,
        on_closed: Callable[[ChannelError], None] | None = None,
        grace: float = 60.0,
    ) -> None:
        self._machine = machine
        self._on_closed = on_closed
        self._sock = sock
        self._padding = padding
        self._grace = grace
        self._session = Session(machine, sock, on_closed, grace=grace)
        self._welcome: Welcome | None = None
        self._forwards: list[PortForward] = []

    @property
    def welcome(self) -> Welcome:
        """What the agent said of itself in the last `connect`."""
        if self._welcome is None:
            raise self._session.error()
        return self._welcome

    # The session

    def connect(self, timeout: float) -> Welcome:
        """Greet the agent; a guest that still boots finds the greeting when it is up.

        Args:
            timeout: Seconds to wait for its answer.

        Raises:
            ChannelError: It did not answer, or speaks another version of the protocol.
        """
        self._welcome = self._session.connect(timeout, padding=self._padding)
        return self._welcome

    def reconnect(self, sock: socket.socket, reason: str, *, padding: bool = True) -> None:
        """Begin anew, as after a reboot or a restore; `connect` comes next.

        Args:
            sock: The new connection, which may be the same as before.
            reason: What happened; whatever is under way fails with a `ChannelError` that says so.
            padding: The connection may carry remains of an earlier session.
        """
        self._session.end(reason)
        if sock is not self._sock:
            self._sock.close()
        self._sock = sock
        self._padding = padding
        self._welcome = None
        self._session = Session(self._machine, sock, self._on_closed, grace=self._grace)

    def interrupt(self, reason: str) -> None:
        """End the session, the connection staying open; `reconnect` comes next, or `close`.

        Whatever is under way fails with a `ChannelError` that says ``reason``.
        """
        self._session.end(reason)

    def close(self) -> None:
        """End the connection, its threads, and everything under way on it."""
        self._session.end("the channel is closed")
        for forward in self._forwards:
            forward.close()
        self._sock.close()

    # Commands

    def run(
        self,
        command: Command,
        *,
        input: bytes | BinaryIO | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> Completed:
        """Run a command to its end.

        Args:
            command: The command.
            input: Its standard input; default: empty.
            stdout: Called, in this thread, with its output as it comes; default: it is collected.
            stderr: The same for its standard error.

        Raises:
            MachineError: It could not be started.
        """
        command = replace(command, stdin=input is not None)
        process = self.start(command, stdout=stdout, stderr=stderr)
        try:
            if input is not None:
                process.feed(input)
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
    ) -> Process:
        """Start a command and return it running.

        Args:
            command: The command.
            stdout: Called with its output by `Process.wait`; default: it is collected.
            stderr: The same for its standard error.
            follower: Is told of it by `Process.wait`.
        """
        takes_input = command.stdin or command.pty is not None
        limit = self._limit(f"`{command}`", command.timeout)
        stream = self._session.open(
            Operation.EXEC,
            _encode_command(command, takes_input),
            input_follows=takes_input,
            until=limit.until,
        )
        return Process(
            self._machine, stream, str(command),
            limit=limit, stdout=stdout, stderr=stderr, follower=follower,
        )  # fmt: skip

    # Waits

    def start_wait(self, wanted: WaitFor) -> Wait:
        """Begin to wait in the guest until something is so.

        Args:
            wanted: What to wait for.

        Returns:
            The wait under way.
        """
        fields = (
            Fields()
            .u32(WaitField.KIND, wanted.kind)
            .text(WaitField.SUBJECT, wanted.subject)
            .u32(WaitField.PORT, wanted.port)
            .milliseconds(WaitField.TIME_LIMIT, wanted.timeout)
            .u32(WaitField.FLAGS, WaitFlag.DATAGRAM if wanted.datagram else None)
            .text(WaitField.WANTED, wanted.wanted)
            .milliseconds(WaitField.ATTEMPT_LIMIT, wanted.attempt)
        )
        limit = self._limit(f"the wait for {wanted}", wanted.timeout)
        stream = self._session.open(Operation.WAIT, fields.encode(), until=limit.until)
        return Wait(self._machine, stream, wanted, limit)

    # Files

    def put(self, source: Path, target: str) -> list[str]:
        """Copy a file or a tree into the guest, with modes, owners, times and links.

        Args:
            source: What to copy; when it is a link itself, what it leads to.
            target: What it becomes, or an existing directory in which it gets its own name.

        Returns:
            What was left out, and why.

        Raises:
            OSError: Something could not be read on the host.
            MachineError: Something could not be written in the guest.
        """
        return self._put(source, target, source.name)

    put_directly = put
    """What host and guest share is of no concern to an agent."""

    def place(self, source: Path, target: str) -> list[str]:
        """As `put`, but ``target`` is what it becomes in any case.

        A tree is merged into a directory that is there.
        """
        return self._put(source, target, None)

    def _put(self, source: Path, target: str, name: str | None) -> list[str]:
        from attest.guest.tar_stream import pack

        fields = Fields().text(CopyField.PATH, target).text(CopyField.NAME, name)
        with self._operation(Operation.PUT, fields) as stream:
            left_out: list[str] = []
            with contextlib.suppress(StreamEnded):  # the result says why
                left_out = pack(source, stream.write)
                stream.write_eof()
            self._require_done(stream.result(), f"copy {source} to {target}")
        return left_out

    def get(self, source: str, target: Path) -> list[str]:
        """Copy a file or a tree out of the guest.

        Modes (without set-user-ID, set-group-ID and sticky bits), times, and links that stay inside
        the tree are kept; owners when root copies. The target is replaced when all is there.

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
        with self._operation(Operation.GET, Fields().text(CopyField.PATH, source)) as stream:
            try:
                left_out = unpack(_reader(stream), target)
            except (TransferError, OSError) as error:
                if stream.ended:
                    self._require_done(stream.result(), what)
                raise MachineError(self._machine, f"cannot {what}: {reason_of(error)}") from error
            result = self._require_done(stream.result(), what)
        return left_out + _counted(result.value)

    # Connections

    def connect_tcp(self, address: str, port: int) -> Connection:
        """Open a TCP connection inside the guest; an absolute path as ``address`` is a Unix socket.

        Raises:
            MachineError: The connection failed; the cause is the `OSError` that the guest met.
        """
        fields = Fields().text(ConnectField.ADDRESS, address).u32(ConnectField.PORT, port)
        with self._operation(Operation.CONNECT, fields) as stream:
            if not stream.await_opened(None):
                result = stream.result()
                message = f"cannot connect to {address}:{port}: {result.message}"
                cause = OSError(result.errno, result.message)
                raise MachineError(self._machine, message) from cause
        return Connection(stream)

    def forward(self, host_port: int, guest_port: int, address: str = "127.0.0.1") -> PortForward:
        """Carry connections to a port of this host's loopback into the guest, until `close`.

        Args:
            host_port: Port on 127.0.0.1; 0 takes a free one, which is the result's ``port``.
            guest_port: Port in the guest.
            address: Address in the guest.

        Raises:
            HostError: The host's port is taken.
        """
        forward = PortForward(host_port, lambda: self.connect_tcp(address, guest_port))
        self._forwards.append(forward)
        return forward

    # The machine itself

    def identity(self, identity: Identity) -> None:
        """Make the guest who it is to be; a copy gets SSH host keys of its own.

        Raises:
            MachineError: Something could not be set, or new keys not be made.
        """
        result = self._ask(
            Operation.IDENTITY, encode_identity(identity), "set the machine's identity"
        )
        if identity.copy and (paths := result.value.splitlines()):
            from attest.guest.agent.ssh_keys import new_host_keys

            keys = new_host_keys(self, self._machine, paths, identity.hostname)
            self._ask(Operation.IDENTITY, keys, "replace the machine's SSH host keys")

    def power(self, action: PowerAction) -> None:
        """Make the guest leave; returns when it has begun to.

        One that is gone before its answer has left it, as can be over vsock, has begun to.
        """
        what = action.name.lower().replace("_", " ")
        fields = Fields().u32(PowerField.ACTION, action)
        limit = self._limit(what, 0)
        with self._operation(Operation.POWER, fields, limit.until) as stream, limit.bound() as end:
            try:
                result = stream.result(end)
            except ChannelError:  # the session has ended
                return
        self._require_done(result, what)

    def info(self) -> dict[str, str]:
        """What the agent says of the guest now, ``uptime_ms`` and ``operations`` among it."""
        return decode_pairs(self._ask(Operation.INFO, b"", "ask the agent").value)

    # Inside

    def _limit(self, what: str, timeout: float | None) -> Limit:
        return Limit(self._machine, what, timeout, grace=self._grace)

    def _ask(self, operation: Operation, fields: bytes, what: str) -> Result:
        limit = self._limit(what, 0)
        with self._operation(operation, fields, limit.until) as stream, limit.bound() as end:
            result = stream.result(end)
        return self._require_done(result, what)

    @contextlib.contextmanager
    def _operation(
        self, operation: Operation, fields: Fields | bytes, until: float | None = None
    ) -> Iterator[Stream]:
        encoded = fields if isinstance(fields, bytes) else fields.encode()
        stream = self._session.open(operation, encoded, until=until)
        try:
            yield stream
        except BaseException:
            stream.abandon()
            raise

    def _require_done(self, result: Result, what: str) -> Result:
        if result.status is not Status.DONE:
            reason = result.message or result.status.name.lower().replace("_", " ")
            raise MachineError(self._machine, f"cannot {what}: {reason}")
        return result


def _encode_command(command: Command, takes_input: bool) -> bytes:
    flags = ExecFlag.STDIN if takes_input else ExecFlag(0)
    flags |= ExecFlag(0) if command.wait_for_output else ExecFlag.LEAVE_BACKGROUND
    flags |= ExecFlag.STRICT if command.strict else ExecFlag(0)
    fields = Fields()
    if isinstance(command.command, str):
        fields.text(ExecField.COMMAND, command.command)
    else:
        for argument in command.command:
            fields.text(ExecField.ARGUMENT, argument)
    fields.text(ExecField.DIRECTORY, command.cwd).text(ExecField.USER, command.user)
    for variable, value in (command.env or {}).items():
        fields.text(ExecField.ENVIRONMENT, f"{variable}={value}")
    fields.milliseconds(ExecField.TIME_LIMIT, command.timeout)
    fields.raw(ExecField.PTY, encode_terminal_size(*command.pty) if command.pty else None)
    fields.u32(ExecField.FLAGS, flags or None)
    return fields.encode()


def _reader(stream: Stream) -> Callable[[], bytes]:
    def read() -> bytes:
        piece = stream.take()
        if piece is None:
            return b""
        stream.taken(len(piece[1]))
        return piece[1]

    return read


def _counted(value: str) -> list[str]:
    """What an agent has left out: how many, and a line for each of the first, kind and path."""
    from attest.guest.tar_stream import LeftOut

    count, *lines = value.splitlines() or ["0"]
    left_out = LeftOut()
    for line in lines:
        kind, _, path = line.partition(" ")
        left_out.add(repr(path), f"is a {kind}")
    if count.isdigit() and len(count) < 10:
        left_out.add_unnamed(max(int(count) - len(lines), 0))
    return left_out.lines()
