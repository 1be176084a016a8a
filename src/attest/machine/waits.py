"""Waits that the agent watches in the guest."""

from __future__ import annotations

import re
from typing import Any

from attest.errors import ConditionFailed
from attest.events import Kind
from attest.guest.channel import WaitKind
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
        self._wait(f"port {port} of {addr}", WaitKind.PORT_OPEN, addr, port=port, timeout=timeout)

    def wait_for_closed_port(
        self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until nothing accepts TCP connections on a port."""
        self._wait(
            f"port {port} of {addr} to close",
            WaitKind.PORT_CLOSED,
            addr,
            port=port,
            timeout=timeout,
        )

    def wait_for_open_unix_socket(
        self, addr: str, is_datagram: bool = False, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until something listens on a Unix socket."""
        self._wait(
            f"socket {addr}", WaitKind.UNIX_SOCKET, addr, timeout=timeout, datagram=is_datagram
        )

    def wait_for_file(self, filename: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until a file exists; ``filename`` is shell text, so globs and quotes work."""
        if re.fullmatch(r"/[\w@%+=:,./-]*", filename):
            self._wait(f"file {filename}", WaitKind.FILE_EXISTS, filename, timeout=timeout)
        else:
            self.wait_until_succeeds(f"test -e {filename}", timeout=timeout)

    def _wait(self, what: str, kind: WaitKind, subject: str, **options: Any) -> None:
        channel = self._channel
        with (
            self._events.span(Kind.WAIT, f"wait for {what}", machine=self.name) as span,
            self._lifecycle.explained(),
        ):
            wait = channel.start_wait(kind, subject, **options)
            with cancellable(wait.cancel):
                try:
                    span.data["seen"] = watched(wait.result)
                except ConditionFailed:
                    wait.cancel()
                    raise
