"""Waits that the agent watches in the guest."""

from __future__ import annotations

import re
from typing import Final, Literal

from attest.errors import ConditionFailed, UsageError
from attest.events import Kind
from attest.guest.channel import WaitFor, WaitKind
from attest.machine.commands import Commands
from attest.machine.conditions import watched
from attest.support import arguments
from attest.support.cancellation import cancellable
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT, tries

__all__ = ["Waits"]

_ATTEMPT: Final = 1.0
"""Seconds in which a port must have answered: as long as TCP waits before it asks once more."""

_LINK_LOCAL: Final = re.compile(r"\[?fe[89ab][0-9a-f]:[^%]*", re.IGNORECASE)


class Waits(Commands):
    """Waits for ports, sockets and files; with a ``timeout`` of 0 each is looked for once."""

    def wait_for_open_port(
        self,
        port: int,
        addr: str = "localhost",
        timeout: Duration = DEFAULT_TIMEOUT,
        attempt_timeout: Duration = _ATTEMPT,
    ) -> None:
        """Wait until something accepts TCP connections on a port, on any address of a name.

        Each look is a connection, which is closed at once. `wait_for_listening_port` makes none.

        Args:
            port: The port.
            addr: A name in the machine's ``/etc/hosts``, or an address.
            timeout: Seconds, or a timedelta.
            attempt_timeout: The same until a connection that nothing answers is begun anew.

        Raises:
            WaitFailed: None does after ``timeout`` seconds, or there is no such name.
        """
        self._wait_for_port("open", port, addr, timeout, attempt_timeout)

    def wait_for_closed_port(
        self,
        port: int,
        addr: str = "localhost",
        timeout: Duration = DEFAULT_TIMEOUT,
        attempt_timeout: Duration = _ATTEMPT,
    ) -> None:
        """Wait until nothing accepts TCP connections on a port, on no address of a name.

        Args:
            port: The port.
            addr: A name in the machine's ``/etc/hosts``, or an address.
            timeout: Seconds, or a timedelta.
            attempt_timeout: The same in which a port that is open has answered.

        Raises:
            WaitFailed: One still does after ``timeout`` seconds, or there is no such name.
        """
        self._wait_for_port("closed", port, addr, timeout, attempt_timeout)

    def wait_for_listening_port(
        self,
        port: int,
        addr: str | None = None,
        timeout: Duration = DEFAULT_TIMEOUT,
        protocol: Literal["tcp", "udp"] = "tcp",
    ) -> None:
        """Wait until a socket of the machine listens on a port, which takes no connection.

        The machine's kernel is asked, so it tells of its own sockets only, and of UDP, too.

        Args:
            port: The port.
            addr: An address of the machine at which the socket must be reached, or
                ``"localhost"``; default: whichever. What listens on ``[::]`` counts for IPv4, too,
                unless the machine has ``ss``, which knows better.
            timeout: Seconds, or a timedelta.
            protocol: ``"tcp"`` or ``"udp"``.

        Raises:
            WaitFailed: None does after ``timeout`` seconds.
        """
        from attest.machine.listening import Listening  # needs modules that most tests do not

        method = f"{self.name}: wait_for_listening_port"
        timeout = seconds(timeout, f"{method}: timeout")
        wanted = Listening(method, port, addr, protocol)
        with self._events.span(Kind.WAIT, f"wait for {wanted}", machine=self.name):
            for _ in tries(timeout):
                if wanted.found_in(self._look_at(wanted.command)):
                    return
            raise self._wait_failed(f"nothing listened on {wanted} in {timeout:g} s")

    def wait_for_open_unix_socket(
        self, addr: str, is_datagram: bool = False, timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until something listens on a Unix socket.

        Args:
            addr: Its path.
            is_datagram: It takes datagrams, not connections.
            timeout: Seconds, or a timedelta.

        Raises:
            WaitFailed: Nothing does after ``timeout`` seconds.
        """
        method = f"{self.name}: wait_for_open_unix_socket"
        if not arguments.name(addr, f"{method}: addr").startswith("/"):
            raise UsageError(f"{method}: addr: expected an absolute path, found {addr!r}")
        limit = seconds(timeout, f"{method}: timeout")
        wanted = WaitFor(WaitKind.UNIX_SOCKET, addr, limit, datagram=bool(is_datagram))
        self._wait(f"socket {addr}", wanted)

    def wait_for_file(self, filename: str, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Wait until a file exists; ``filename`` is shell text, so globs and quotes work.

        Raises:
            WaitFailed: It does not after ``timeout`` seconds, or a timedelta.
        """
        arguments.name(filename, f"{self.name}: wait_for_file: filename")
        limit = seconds(timeout, f"{self.name}: wait_for_file: timeout")
        if re.fullmatch(r"/[\w@%+=:,./-]*", filename):
            self._wait(f"file {filename}", WaitFor(WaitKind.FILE_EXISTS, filename, limit))
        else:
            self.wait_until_succeeds(f"test -e {filename}", timeout=limit)

    def _wait_for_port(
        self,
        state: Literal["open", "closed"],
        port: int,
        addr: str,
        timeout: Duration,
        attempt_timeout: Duration,
    ) -> None:
        method = f"{self.name}: wait_for_{state}_port"
        arguments.port(port, f"{method}: port")
        if _LINK_LOCAL.fullmatch(arguments.name(addr, f"{method}: addr")):
            raise UsageError(
                f"{method}: addr: a link-local address needs its interface, found {addr!r}",
                hint=f"{addr.strip('[]')}%eth0",
            )
        wanted = WaitFor(
            WaitKind.PORT_OPEN if state == "open" else WaitKind.PORT_CLOSED,
            addr,
            seconds(timeout, f"{method}: timeout"),
            port=port,
            attempt=seconds(attempt_timeout, f"{method}: attempt_timeout"),
        )
        end = "" if state == "open" else " to close"
        self._wait(f"port {port} of {addr}{end}", wanted)

    def _wait(self, what: str, wanted: WaitFor) -> None:
        channel = self._channel
        with (
            self._events.span(Kind.WAIT, f"wait for {what}", machine=self.name) as span,
            self._lifecycle.explained(),
        ):
            wait = channel.start_wait(wanted)
            with cancellable(wait.cancel):
                try:
                    span.data["seen"] = watched(wait.result)
                except ConditionFailed:
                    wait.cancel()
                    raise
