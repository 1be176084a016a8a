"""A machine's network: its interfaces and addresses, and its ports on this host."""

from __future__ import annotations

from typing import Literal

from attest.errors import UsageError
from attest.events import Kind
from attest.machine.interface import Interface
from attest.machine.power import Power
from attest.support.arguments import port

__all__ = ["Network"]


class Network(Power):
    """Ports of the machine on this host, its interfaces, and its networks as a whole."""

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Its network interfaces, in order; of a start script's machine none, as they are its own.

        They are as attest has made them: nothing is asked of the machine, which need not run.
        """
        return self._host.interfaces

    def ip(self, vlan: int = 1, family: Literal[4, 6] = 4) -> str:
        """The machine's address on a network, without a prefix, such as ``"192.168.1.2"``.

        Nothing is asked of the machine, which need not run.

        Example::

            assert machine.ip() in machine.succeed("ip -4 address show dev eth0")
            assert cluster["client"].ip() in machine.succeed("cat /etc/hosts")

        Args:
            vlan: The network's number.
            family: 4 for IPv4, 6 for IPv6.

        Raises:
            UsageError: It is not on that network, has no address of the family, or has addresses
                that attest does not know of; says what there is.
        """
        if family not in (4, 6):
            raise UsageError(f"{self.name}: ip: family: expected 4 or 6, found {family!r}")
        call = f"{self.name}: ip(vlan={vlan}, family={family})"
        on = next((each for each in self.interfaces if each.vlan == vlan), None)
        if on is None:
            there = [str(each.vlan) for each in self.interfaces if each.vlan is not None]
            known = ", ".join(there) or "none that attest knows of"
            raise UsageError(f"{call}: it is not on that network; it is on {known}")
        if address := on.address(family):
            return address
        if on.addresses:
            raise UsageError(
                f"{call}: it has no such address there; it has {', '.join(on.addresses)}",
                hint="`ipv6 = true` in its node gives it one",
            )
        raise UsageError(
            f"{call}: its image says who it is (`own_identity`), so attest knows no address of it",
            hint="the machine does: `ip -brief address`",
        )

    def forward_port(self, host_port: int = 8080, guest_port: int = 80) -> None:
        """Carry TCP connections to ``127.0.0.1:host_port`` into the machine; needs no network.

        Args:
            host_port: The port of this host; 0: any that is free.
            guest_port: The machine's port.

        Raises:
            UsageError: One is no port.
        """
        if host_port != 0:
            port(host_port, f"{self.name}: forward_port: host_port")
        port(guest_port, f"{self.name}: forward_port: guest_port")
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
