"""Who a machine is to become: name, ids, addresses, randomness and time."""

from __future__ import annotations

import msgspec

__all__ = ["Identity", "Interface"]


class Interface(msgspec.Struct, frozen=True):
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


class Identity(msgspec.Struct, frozen=True):
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
