"""Who is where in a cluster: numbers, names, and what each machine knows of the others."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from attest.net.bridge import SPARE, Attachment

__all__ = ["free_names", "hosts_file", "next_number"]


def next_number(taken: Iterable[int]) -> int:
    """The first number, which addresses end with, after all that are taken."""
    return 1 + max(taken, default=0)


def free_names(stem: str, count: int, taken: Collection[str]) -> list[str]:
    """So many names that are not taken: ``STEM-1`` and so on."""
    names = (f"{stem}-{number}" for number in itertools.count(1))
    return list(itertools.islice((name for name in names if name not in taken), count))


def hosts_file(name: str, places: Mapping[str, Sequence[Attachment]]) -> str:
    """The lines of a machine's ``/etc/hosts``: every machine by name, as in NixOS tests.

    First a machine's addresses on the networks that both are on, then those on its first one, to
    which there may be a way, too.

    Args:
        name: Whose file it is.
        places: Where each machine is on the networks, by name.
    """
    own = {each.vlan for each in places[name]}
    lines = []
    for other, attachments in sorted(places.items()):
        there = [each for each in attachments if each.vlan != SPARE]
        near = dict.fromkeys([*(each for each in there if each.vlan in own), *there[:1]])
        addresses = (address for each in near for address in each.addresses)
        lines += [f"{address.partition('/')[0]} {other}\n" for address in addresses]
    return "".join(lines)
