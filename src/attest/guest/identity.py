"""Who a machine is to become: name, ids, addresses, randomness and time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from attest.guest.protocol import Fields, IdentityField

__all__ = ["Identity", "Interface"]

_SEED: Final = 64
"""Bytes; the kernel's generator holds half as many."""


@dataclass(frozen=True)
class Interface:
    """A network interface of a guest.

    Attributes:
        index: Which one: the number of the Ethernet interface in the kernel's order, from 0.
        mac: The MAC address it gets; None keeps its own.
        addresses: Its addresses, each ``ADDRESS/PREFIX``; others that it has are removed.
        up: Bring it up.
    """

    index: int
    mac: str | None = None
    addresses: tuple[str, ...] = ()
    up: bool = True

    def encode(self) -> str:
        """The lines that the agent reads."""
        lines = [f"index={self.index}"]
        lines += [f"mac={self.mac}"] if self.mac else []
        lines += [f"address={address}" for address in self.addresses]
        lines += ["up"] if self.up else []
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Identity:
    """What tells a machine from its clones. What is None stays as it is.

    Attributes:
        hostname: Host name.
        machine_id: 32 hexadecimal digits, for ``/etc/machine-id``.
        hosts: Lines for ``/etc/hosts``.
        interfaces: Network interfaces.
        seed: Up to 512 bytes for the kernel's random pool. A copy without one gets some.
        clock_ns: Real time, in nanoseconds since the epoch.
        copy: It is the copy of another guest: it loses leases of DHCP clients and the seed for its
            next boot, and gets SSH host keys of its own where it has some.
    """

    hostname: str | None = None
    machine_id: str | None = None
    hosts: str | None = None
    interfaces: tuple[Interface, ...] = ()
    seed: bytes | None = None
    clock_ns: int | None = None
    copy: bool = False

    def encode(self) -> bytes:
        """The fields of an IDENTITY request."""
        fields = (
            Fields()
            .text(IdentityField.HOSTNAME, self.hostname)
            .text(IdentityField.MACHINE_ID, self.machine_id)
            .text(IdentityField.HOSTS, self.hosts)
        )
        for interface in self.interfaces:
            fields.text(IdentityField.INTERFACE, interface.encode())
        # Keys that a copy makes from the same random numbers as its siblings are no secrets.
        seed = os.urandom(_SEED) if self.copy and self.seed is None else self.seed
        fields.raw(IdentityField.SEED, seed).u64(IdentityField.CLOCK, self.clock_ns)
        fields.u32(IdentityField.COPY, 1 if self.copy else None)
        return fields.encode()
