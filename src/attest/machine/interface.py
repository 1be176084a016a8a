"""A machine's network interfaces, as attest has made them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from attest.net.bridge import SPARE, Attachment

__all__ = ["Interface", "interfaces_of"]


class Interface(msgspec.Struct, frozen=True):
    """A network interface that attest has given to a machine.

    Attributes:
        name: What the guest's kernel calls it, such as ``eth0``.
        vlan: The number of the network that it is on; None of a spare one, which is on none.
        mac: Its MAC address.
        addresses: Its addresses, each ``ADDRESS/PREFIX``: the IPv4 one first, then the IPv6 one
            where it has one. Empty where the machine's image says who it is.
    """

    name: str
    vlan: int | None
    mac: str
    addresses: tuple[str, ...]

    def address(self, family: Literal[4, 6]) -> str | None:
        """Its address of a family, without the prefix; None where it has none."""
        found = (each.partition("/")[0] for each in self.addresses)
        return next((each for each in found if (":" in each) == (family == 6)), None)


def interfaces_of(
    attachments: Iterable[Attachment], *, own_identity: bool
) -> tuple[Interface, ...]:
    """The interfaces of a machine that boots an image.

    Args:
        attachments: Its places on the networks, in the order of its network cards.
        own_identity: Its image says who it is, so nobody knows its addresses.
    """
    return tuple(
        Interface(
            name=f"eth{index}",
            vlan=None if each.vlan == SPARE else each.vlan,
            mac=each.mac,
            addresses=() if own_identity else each.addresses,
        )
        for index, each in enumerate(attachments)
    )
