"""Which sockets listen: what the kernel's tables say, and what `ss` says of them."""

from __future__ import annotations

import socket
import subprocess

import pytest

from attest.machine.listening import Listening

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def found(port: int, addr: str | None, protocol: str) -> bool:
    wanted = Listening("m: wait", port, addr, protocol)
    command = subprocess.run(["sh", "-c", wanted.command], stdout=subprocess.PIPE, check=True)
    return wanted.found_in(command.stdout.decode())


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("bound", "at", "not_at"),
    [
        ("127.0.0.1", [None, "127.0.0.1", "localhost"], ["127.0.0.2", "::1"]),
        ("0.0.0.0", [None, "127.0.0.1", "127.1.2.3", "localhost"], ["::1", "192.0.2.1"]),
        ("::1", [None, "::1", "[::1]", "localhost"], ["127.0.0.1", "::2"]),
        ("::", [None, "::1", "127.0.0.1", "localhost"], ["2001:db8::1", "fe80::1%lo", "192.0.2.1"]),
        ("::ffff:127.0.0.2", [None, "127.0.0.2"], ["127.0.0.1", "localhost"]),
    ],
)
def test_a_socket_on_this_host(
    protocol: str, bound: str, at: list[str | None], not_at: list[str]
) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.socket(family, _KINDS[protocol]) as server:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((bound, 0))
        port = server.getsockname()[1]
        if protocol == "tcp":
            assert not found(port, None, protocol)  # bound is not enough
            server.listen()
        assert [addr for addr in at if not found(port, addr, protocol)] == []
        assert [addr for addr in not_at if found(port, addr, protocol)] == []
        other = "udp" if protocol == "tcp" else "tcp"
        assert not found(port, None, other)
    assert not found(port, None, protocol)


def test_a_connection_to_the_port_is_no_socket_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
    with client:
        assert not found(port, None, "tcp")


_TABLE = (
    "   0: 00000000000000000000000000000000:1E70 00000000000000000000000000000000:0000 0A "
    "00000000:00000000 00:00000000 00000000 0 0 10703 1 0 100 0 0 10 0\n"
)


@pytest.mark.parametrize(
    ("said", "reached"),
    [
        ("", True),  # there is no `ss`
        ("LISTEN 0      1      *:7792 *:*\n", True),
        ("LISTEN 0      1      [::]:7792 [::]:*\n", False),
        ("LISTEN 0 1 [::]:7792 [::]:*\nLISTEN 0 1 *:7792 *:*\n", True),
    ],
)
def test_all_addresses_of_ipv6_are_those_of_ipv4_where_the_socket_takes_both(
    said: str, reached: bool
) -> None:
    its_own = _TABLE + "own\n" + said
    assert Listening("m: wait", 7792, "192.0.2.1", "tcp").found_in(its_own) == reached
    assert Listening("m: wait", 7792, "2001:db8::1", "tcp").found_in(its_own)
    assert not Listening("m: wait", 7792, "2001:db8::1", "tcp").found_in(_TABLE + said)
    assert Listening("m: wait", 7792, None, "tcp").found_in(_TABLE + said)
