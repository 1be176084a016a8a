"""Which sockets listen, as the kernel's tables have it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from attest.errors import UsageError
from attest.support import arguments
from attest.support.validation import check_choice

__all__ = ["Listening"]

_STATES: Final = {"tcp": "0A", "udp": "07"}
"""What `/proc/net` calls a socket that listens, and a UDP socket that is connected to nobody."""

_Address = IPv4Address | IPv6Address

_OWN: Final = "own"
"""What the command says of an address that the machine has."""

_LOCALHOST: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class Listening:
    """A port that sockets listen on, on certain addresses.

    Args:
        method: The method that is called, for errors.
        port: The port.
        addr: An address at which one must be reached, or ``"localhost"``; None for any.
        protocol: ``"tcp"`` or ``"udp"``.

    Attributes:
        command: Shows the sockets that listen on the port, for any shell.

    Raises:
        UsageError: There are no such ports, addresses or protocols.
    """

    def __init__(self, method: str, port: int, addr: str | None, protocol: str) -> None:
        check_choice(protocol, _STATES, f"{method}: protocol")
        self._addresses = () if addr is None else _addresses(addr, f"{method}: addr")
        self._name = f"{protocol.upper()} port {arguments.port(port, f'{method}: port')}"
        self._name += "" if addr is None else f" of {addr}"
        tables = f"/proc/net/{protocol} /proc/net/{protocol}6"  # without IPv6, one is not there
        line = f":{port:04X} [0-9A-F]*:[0-9A-F]* {_STATES[protocol]} "
        self.command = f"grep -hs '{line}' {tables} || true"
        # What is bound to any address is reached at those only that the machine has.
        self._is_looked_for = any(not each.is_loopback for each in self._addresses)
        if self._is_looked_for:
            self.command += f"; {_look_for(self._addresses[0])}"
        if self._addresses and isinstance(self._addresses[0], IPv4Address):
            # Whether [::] is for IPv4, too, is not in the tables.
            self.command += f"; ss -6Hln{protocol[0]} 'sport = :{port}' 2>/dev/null || true"

    def __str__(self) -> str:
        return self._name

    def found_in(self, output: str) -> bool:
        """Whether there is such a socket, as the command has printed it."""
        lines = [line.split() for line in output.splitlines()]
        bound = {_bound(words[1]) for words in lines if words[0].endswith(":")}
        if not self._addresses:
            return bool(bound)
        if self._is_looked_for and [_OWN] not in lines:
            return False
        named = [words[3] for words in lines if words[0] in ("LISTEN", "UNCONN")]
        only_ipv6 = any(each.startswith("[::]:") for each in named)
        dual = any(each.startswith("*:") for each in named) or not only_ipv6
        return any(bound & _covering(address, dual=dual) for address in self._addresses)


def _look_for(address: _Address) -> str:
    """A command that says whether the machine has an address."""
    if isinstance(address, IPv6Address):
        return f"grep -qs ^{address.packed.hex()} /proc/net/if_inet6 && echo {_OWN} || true"
    return f"grep -qs -- '-- {address}$' /proc/net/fib_trie && echo {_OWN} || true"


def _addresses(addr: str, what: str) -> tuple[_Address, ...]:
    if addr == "localhost":
        return _LOCALHOST
    try:
        return (ip_address(arguments.name(addr, what).strip("[]")),)
    except ValueError:
        raise UsageError(
            f'{what}: expected an address of the machine, or "localhost", found {addr!r}',
            hint="`ip()` of a machine says which it has",
        ) from None


def _bound(socket: str) -> _Address:
    """The address of a socket in the table: words of 32 bits in the guest's order."""
    digits = socket.partition(":")[0]
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    packed = b"".join(struct.pack("<I", word) for word in words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _covering(address: _Address, *, dual: bool) -> set[_Address]:
    """The addresses that a socket can be bound to which is reached at this one."""
    if isinstance(address, IPv6Address):
        return {IPv6Address(address.packed), IPv6Address("::")}  # without the interface
    covering: set[_Address] = {address, IPv4Address("0.0.0.0"), IPv6Address(f"::ffff:{address}")}
    return covering | {IPv6Address("::")} if dual else covering
