"""A machine's network, and its ports on this host."""

from __future__ import annotations

from attest.events import Kind
from attest.machine.power import Power

__all__ = ["Network"]


class Network(Power):
    """Ports of the machine on this host, and its networks as a whole."""

    def forward_port(self, host_port: int = 8080, guest_port: int = 80) -> None:
        """Carry TCP connections to ``127.0.0.1:host_port`` into the machine; needs no network."""
        self._channel.forward(host_port, guest_port)

    def block(self) -> None:
        """Unplug the machine from all its networks; `unblock` plugs it in again."""
        self._set_links(False, "block network")

    def unblock(self) -> None:
        """Plug the machine into its networks again, after `block`."""
        self._set_links(True, "unblock network")

    def _set_links(self, up: bool, what: str) -> None:
        with self._events.span(Kind.ACTION, what, machine=self.name):
            self._host.set_links(self._lifecycle.alive().vmm, up)
