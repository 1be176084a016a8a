"""The `bridge` fabric: a kernel bridge for each network, a tap for each attachment."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attest.errors import HostError
from attest.host.nix_build import remedy
from attest.net.cell import Cell

__all__ = [
    "Attachment",
    "address",
    "hold_bridges",
    "join_bridges",
    "join_switch",
    "make_bridges",
    "make_taps",
    "set_cable",
]

# Learning is immediate: a machine's first packet must not wait for a forwarding delay.
_BRIDGE: Final = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"


@dataclass(frozen=True)
class Attachment:
    """One machine's place on one network.

    Attributes:
        vlan: The network's number.
        node: The machine's number.
    """

    vlan: int
    node: int

    @property
    def tap(self) -> str:
        """The host interface's name in the cell."""
        return f"t{self.node}v{self.vlan}"

    @property
    def mac(self) -> str:
        """NixOS's address for the NIC of this node on this network."""
        return f"52:54:00:12:{self.vlan:02x}:{self.node:02x}"

    @property
    def address(self) -> str:
        """The IPv4 address with its prefix."""
        return f"{address(self.vlan, self.node)}/24"


def address(vlan: int, node: int) -> str:
    """The IPv4 address of a node on a network, as in NixOS tests."""
    return f"192.168.{vlan}.{node}"


def make_bridges(cell: Cell, attachments: Iterable[Attachment]) -> None:
    """Make all bridges and taps in one go.

    Raises:
        HostError: Taps or bridges cannot be made here.
    """
    attachments = list(attachments)
    lines = []
    for vlan in sorted({attachment.vlan for attachment in attachments}):
        lines += [f"link add vlan{vlan} {_BRIDGE}", f"link set vlan{vlan} up"]
    _batch(cell, lines + _joined(attachments))


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
        [f"tuntap add dev {tap} mode tap", f"link set {tap} master vlan{vlan} up"],
    )
    return tap


def make_taps(cell: Cell, names: Iterable[str]) -> None:
    """Make taps that are on no network, for machines that are not to meet others.

    Raises:
        HostError: They cannot be made here.
    """
    lines = []
    for name in names:
        lines += [f"tuntap add dev {name} mode tap", f"link set {name} up"]
    _batch(cell, lines)


def set_cable(cell: Cell, attachment: Attachment, plugged: bool) -> None:
    """Put a tap on its bridge, or on none: the machine sees no change of its link."""
    bridge = f"master vlan{attachment.vlan}" if plugged else "nomaster"
    _batch(cell, [f"link set {attachment.tap} {bridge}"])


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
        lines += [f"tuntap add dev {each.tap} mode tap",
                  f"link set {each.tap} master vlan{each.vlan} up"]  # fmt: skip
    return lines


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
