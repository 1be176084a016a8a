"""A node's places on the networks."""

from __future__ import annotations

from attest.manifest import Node
from attest.net.bridge import SPARE, Attachment

__all__ = ["attachments_of"]


def attachments_of(node: Node, number: int) -> list[Attachment]:
    """A node's places on the networks, in the order of its network cards.

    Args:
        node: The node.
        number: Its number in the cluster.
    """
    vlans = [SPARE, *node.vlans] if node.spare_eth0 else node.vlans
    return [Attachment(vlan, number, node.ipv6) for vlan in vlans]
