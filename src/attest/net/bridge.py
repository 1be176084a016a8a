"""The `bridge` fabric: a kernel bridge for each network, a tap for each attachment."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from attest.errors import HostError
from attest.net.cell import Cell
from attest.support.nix_sandbox import remedy

__all__ = [
    "SPARE",
    "Attachment",
    "cell_with_bridges",
    "hold_bridges",
    "join_bridges",
    "join_switch",
    "make_taps",
    "remove_taps",
    "set_cables",
    "set_usual_mtu",
]

# Learning is immediate: a machine's first packet must not wait for a forwarding delay.
_BRIDGE: Final = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"

_MTU: Final = 65_521
"""Bytes of a packet on a tap, at most, which is the most that a tap takes. A guest decides how
large its packets are, by default 1500 bytes; on a tap that lets no larger ones pass, those are lost
without a word."""

SPARE: Final = 0
"""Instead of a network's number: a card that is on none."""


class Attachment(msgspec.Struct, frozen=True):
    """One card of a machine: its place on one network.

    Attributes:
        vlan: The network's number, or `SPARE`.
        node: The machine's number.
        ipv6: It has an IPv6 address, too.
    """

    vlan: int
    node: int
    ipv6: bool = False

    @property
    def tap(self) -> str:
        """The name that its tap has in the cell."""
        return f"t{self.node}v{self.vlan}"

    @property
    def mac(self) -> str:
        """NixOS's address for the NIC of this node on this network."""
        return f"52:54:00:12:{self.vlan:02x}:{self.node:02x}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """NixOS's addresses for it, with their prefixes; none of a spare card."""
        if self.vlan == SPARE:
            return ()
        ipv4 = f"192.168.{self.vlan}.{self.node}/24"
        # The numbers' decimal digits, though IPv6 has hexadecimal ones.
        return (ipv4, f"2001:db8:{self.vlan}::{self.node}/64") if self.ipv6 else (ipv4,)


def cell_with_bridges(scratch: Path, attachments: Iterable[Attachment]) -> Cell:
    """A cell that is made with all bridges and taps; the taps of spare cards are on no bridge.

    Using it first raises a `HostError` where taps or bridges cannot be made here.

    Args:
        scratch: A directory that goes with the cell.
        attachments: What is on its networks.
    """
    attachments = list(attachments)
    lines = []
    for vlan in sorted({attachment.vlan for attachment in attachments} - {SPARE}):
        lines += [f"link add vlan{vlan} {_BRIDGE}", f"link set vlan{vlan} up"]
    lines += _joined(attachments)
    return Cell(scratch, lines, lambda stderr: _refusal(lines, stderr))


def join_bridges(cell: Cell, attachments: Iterable[Attachment]) -> None:
    """Make taps on bridges that are there.

    Raises:
        HostError: Taps cannot be made here.
    """
    _batch(cell, _joined(attachments))


def join_switch(cell: Cell, vlan: int) -> str:
    """Make a tap on a bridge for a switch in user space, and return its name.

    Raises:
        HostError: It cannot be made here.
    """
    tap = f"switch{vlan}"
    _batch(
        cell,
        _tap(tap, f"master vlan{vlan} "),
    )
    return tap


def make_taps(cell: Cell, names: Iterable[str]) -> None:
    """Make taps that are on no network, for machines that are not to meet others.

    Raises:
        HostError: They cannot be made here.
    """
    _batch(cell, [line for name in names for line in _tap(name)])


def remove_taps(cell: Cell, names: Iterable[str]) -> None:
    """Remove taps that no machine uses any more."""
    _batch(cell, [f"link del {name}" for name in names])


def set_cables(cell: Cell, attachments: Iterable[Attachment], plugged: bool) -> None:
    """Put taps on their bridges, or on none: the machine sees no change of its links.

    Those of spare cards are on none in any case.

    Raises:
        HostError: Taps or bridges are gone.
    """
    _batch(
        cell,
        [
            f"link set {each.tap} " + (f"master vlan{each.vlan}" if plugged else "nomaster")
            for each in attachments
            if each.vlan != SPARE
        ],
    )


def set_usual_mtu(cell: Cell, taps: Iterable[str]) -> None:
    """Let no packets of more than 1500 bytes pass on taps whose VMM tells its guest their MTU.

    Raises:
        HostError: Taps are gone.
    """
    _batch(cell, [f"link set {tap} mtu 1500" for tap in taps])


@contextmanager
def hold_bridges(cell: Cell, vlans: Iterable[int]) -> Iterator[None]:
    """Let no packet pass on these networks; machines see no change of their links."""
    vlans = list(vlans)
    _batch(cell, [f"link set vlan{vlan} down" for vlan in vlans])
    try:
        yield
    finally:
        _batch(cell, [f"link set vlan{vlan} up" for vlan in vlans])


def _joined(attachments: Iterable[Attachment]) -> list[str]:
    lines = []
    for each in attachments:
        bridge = "" if each.vlan == SPARE else f"master vlan{each.vlan} "
        lines += _tap(each.tap, bridge)
    return lines


def _tap(name: str, bridge: str = "") -> list[str]:
    return [f"tuntap add dev {name} mode tap", f"link set {name} mtu {_MTU} {bridge}up"]


def _batch(cell: Cell, lines: list[str]) -> None:
    if not lines:
        return
    try:
        cell.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")
    except subprocess.CalledProcessError as error:
        raise _refusal(lines, error.stderr) from None


def _refusal(lines: list[str], stderr: str) -> HostError:
    # `ip -batch` ends with "Command failed -:LINE".
    number = stderr.rpartition(":")[2].strip()
    line = lines[int(number) - 1] if number.isdigit() and int(number) <= len(lines) else ""
    reason = stderr.splitlines()[0] if stderr else "no reason given"
    if line.startswith("tuntap"):
        return HostError(
            f"cannot make a tap interface: {reason}",
            hint=remedy(
                Path("/dev/net/tun"),
                "/dev/net/tun must exist and be writable: `modprobe tun`, "
                "`chmod 0666 /dev/net/tun`",
            ),
        )
    return HostError(
        f"cannot make a network bridge: `ip {line}`: {reason}",
        hint="the kernel needs bridges: `modprobe bridge`",
    )
