"""Waits that the agent watches in the guest."""

from __future__ import annotations

import re

from attest.errors import ConditionFailed
from attest.events import Kind
from attest.guest.channel import WaitFor, WaitKind
from attest.machine.commands import Commands
from attest.machine.conditions import watched
from attest.support.cancellation import cancellable
from attest.support.polling import DEFAULT_TIMEOUT

__all__ = ["Waits"]


class Waits(Commands):
    """Waits for ports, sockets and files."""

    def wait_for_open_port(
        self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until something accepts TCP connections on a port."""
        wanted = WaitFor(WaitKind.PORT_OPEN, addr, timeout, port=port)
        self._wait(f"port {port} of {addr}", wanted)

    def wait_for_closed_port(
        self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until nothing accepts TCP connections on a port."""
        wanted = WaitFor(WaitKind.PORT_CLOSED, addr, timeout, port=port)
        self._wait(f"port {port} of {addr} to close", wanted)

    def wait_for_open_unix_socket(
        self, addr: str, is_datagram: bool = False, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until something listens on a Unix socket."""
        wanted = WaitFor(WaitKind.UNIX_SOCKET, addr, timeout, datagram=is_datagram)
        self._wait(f"socket {addr}", wanted)

    def wait_for_file(self, filename: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until a file exists; ``filename`` is shell text, so globs and quotes work."""
        if re.fullmatch(r"/[\w@%+=:,./-]*", filename):
            wanted = WaitFor(WaitKind.FILE_EXISTS, filename, timeout)
            self._wait(f"file {filename}", wanted)
        else:
            self.wait_until_succeeds(f"test -e {filename}", timeout=timeout)

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
