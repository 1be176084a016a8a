"""IDENTITY, in namespaces of its own: real netlink, on a pair of interfaces."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent_client import (
    DONE,
    FAILED,
    IDENTITY,
    AgentClient,
    Fields,
    Result,
    root_only,
    running_agent,
    u64,
)

pytestmark = [root_only, pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")]

HOST_NAME, MACHINE_ID, HOSTS, INTERFACE, SEED, CLOCK = range(1, 7)
SET_UP = """
mount --bind "$0" /etc
ip link set lo up
ip link add eth1 type veth peer name eth0
exec "$@"
"""
OLD_ID, NEW_ID = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@dataclass(frozen=True)
class Guest:
    client: AgentClient
    etc: Path

    def become(self, *fields: tuple[int, str | bytes]) -> Result:
        encoded: Fields = [
            (tag, value.encode() if isinstance(value, str) else value) for tag, value in fields
        ]
        return self.client.run(IDENTITY, encoded)[0]

    def sh(self, command: str) -> str:
        result, stream = self.client.sh(command)
        assert result.code == 0, stream.stderr
        return stream.stdout.decode()

    def interface(self, index: int) -> tuple[str, bool, list[str]]:
        """The MAC, whether it is up, and the addresses that are not link-local, of eth0, eth1, …"""
        (found,) = json.loads(self.sh(f"ip -j address show eth{index}"))
        addresses = [
            f"{address['local']}/{address['prefixlen']}"
            for address in found["addr_info"]
            if address["scope"] != "link"
        ]
        return found["address"], "UP" in found["flags"], addresses

    def link_local(self, index: int) -> list[str]:
        (found,) = json.loads(self.sh(f"ip -j address show eth{index}"))
        return [address["local"] for address in found["addr_info"] if address["scope"] == "link"]


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "ld.so.cache"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), etc)
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (etc / "hostname").write_text("before\n")
    (etc / "machine-id").write_text(OLD_ID + "\n")
    prefix = ["unshare", "--net", "--uts", "--mount", "sh", "-ec", SET_UP, str(etc)]
    path = tmp_path / "agent"
    with running_agent(path, prefix=prefix), AgentClient(path) as client:
        yield Guest(client, etc)


def test_host_name(guest: Guest) -> None:
    # Shells that were started under the old name know the new one.
    deadline = time.monotonic() + 30
    for number in range(3):
        assert guest.become((HOST_NAME, f"alice{number}")).status == DONE
        shown = guest.sh("hostname; echo $HOSTNAME; cat /etc/hostname; uname -n")
        assert shown.split() == [f"alice{number}"] * 4
        assert time.monotonic() < deadline
    assert os.uname().nodename != "alice2"


def test_machine_id(guest: Guest) -> None:
    assert guest.become((MACHINE_ID, NEW_ID)).status == DONE
    assert (guest.etc / "machine-id").read_text() == NEW_ID + "\n"


@pytest.mark.parametrize("wrong", ["", "0" * 31, "0" * 33, "g" * 32, "A" * 32])
def test_a_wrong_machine_id(guest: Guest, wrong: str) -> None:
    result = guest.become((MACHINE_ID, wrong))
    assert (result.status, result.errno) == (FAILED, 22)
    assert "machine-id" in result.message
    assert (guest.etc / "machine-id").read_text() == OLD_ID + "\n"


def test_a_file_that_is_a_mount_is_written_through(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "id").write_text(OLD_ID)
    guest.sh(f"mount --bind {tmp_path}/id /etc/machine-id")
    assert guest.become((MACHINE_ID, NEW_ID)).status == DONE
    assert (tmp_path / "id").read_text() == NEW_ID + "\n"


def test_the_journal_is_found_under_the_new_machine_id(guest: Guest) -> None:
    guest.sh(f"mount -t tmpfs none /run; mkdir -p /run/log/journal/{OLD_ID}")
    assert guest.become((MACHINE_ID, NEW_ID)).status == DONE
    assert guest.sh(f"readlink /run/log/journal/{NEW_ID}").strip() == OLD_ID


def test_hosts(guest: Guest) -> None:
    hosts = guest.etc / "hosts"
    assert guest.become((HOSTS, "10.0.0.1 a\n10.0.0.2 b")).status == DONE
    first = hosts.read_text()
    assert first.startswith("127.0.0.1 localhost\n")
    assert "\n10.0.0.1 a\n10.0.0.2 b\n" in first
    hosts.write_text("::1 before\n" + first + "10.9.9.9 after\n")
    assert guest.become((HOSTS, "10.0.0.3 c\n")).status == DONE
    second = hosts.read_text()
    assert second.startswith("::1 before\n127.0.0.1 localhost\n")
    assert second.endswith("10.0.0.3 c\n" + second.splitlines()[-2] + "\n10.9.9.9 after\n")
    assert "10.0.0.1" not in second
    assert hosts.stat().st_mode & 0o777 == 0o644


def test_hosts_behind_a_link(guest: Guest) -> None:
    (guest.etc / "hosts").unlink()
    (guest.etc / "hosts").symlink_to("/no/such/store/hosts")
    assert guest.become((HOSTS, "10.0.0.1 a")).status == DONE
    assert "10.0.0.1 a" in (guest.etc / "hosts").read_text()


def test_a_read_only_file_system(guest: Guest) -> None:
    guest.sh("mount -o remount,ro,bind /etc")
    assert guest.become((HOST_NAME, "alice")).status == DONE
    assert guest.sh("uname -n") == "alice\n"
    result = guest.become((HOSTS, "10.0.0.1 a"))
    assert (result.status, result.errno) == (FAILED, 30)
    guest.sh("mount -o remount,rw,bind /etc")


def test_interface(guest: Guest) -> None:
    result = guest.become(
        (
            INTERFACE,
            "index=1\nmac=02:00:00:00:00:01\naddress=192.168.1.2/24\naddress=fd00::2/64\nup",
        )
    )
    assert result.status == DONE
    mac, up, addresses = guest.interface(1)
    assert (mac, up) == ("02:00:00:00:00:01", True)
    assert addresses == ["192.168.1.2/24", "fd00::2/64"]
    assert "brd 192.168.1.255" in guest.sh("ip address show eth1")
    assert guest.interface(0)[1] is False


def test_addresses_are_replaced(guest: Guest) -> None:
    guest.sh(
        "for a in 10.0.0.1/24 10.0.0.2/24 10.1.0.1/16 fd00::1/64 fe80::5/64; do"
        " ip address add $a dev eth0; done; ip address add 10.0.0.9/24 dev eth1"
    )
    assert (
        guest.become((INTERFACE, "index=0\naddress=10.1.0.1/16\naddress=10.2.0.1/30")).status
        == DONE
    )
    assert guest.interface(0)[2] == ["10.1.0.1/16", "10.2.0.1/30"]
    assert guest.link_local(0) == ["fe80::5"]
    assert guest.interface(1)[2] == ["10.0.0.9/24"]
    # The same once more changes nothing.
    assert (
        guest.become((INTERFACE, "index=0\naddress=10.1.0.1/16\naddress=10.2.0.1/30")).status
        == DONE
    )
    assert guest.interface(0)[2] == ["10.1.0.1/16", "10.2.0.1/30"]


def test_only_what_is_given_is_changed(guest: Guest) -> None:
    guest.sh("ip address add 10.0.0.1/24 dev eth0")
    before = guest.interface(0)
    assert guest.become((INTERFACE, "index=0")).status == DONE
    assert guest.interface(0) == before
    assert guest.become((INTERFACE, "index=0\nup")).status == DONE
    assert guest.interface(0) == (before[0], True, before[2])


def test_interfaces_by_mac_exchange_their_macs(guest: Guest) -> None:
    first, second = guest.interface(0)[0], guest.interface(1)[0]
    result = guest.become(
        (INTERFACE, f"match={first.upper()}\nmac={second}\naddress=10.0.0.1/24"),
        (INTERFACE, f"match={second}\nmac={first}\naddress=10.0.0.2/24"),
    )
    assert result.status == DONE
    assert guest.interface(0) == (second, False, ["10.0.0.1/24"])
    assert guest.interface(1) == (first, False, ["10.0.0.2/24"])


def test_the_link_local_address_follows_the_mac(guest: Guest) -> None:
    guest.sh(
        "sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=0; ip link set eth0 address 02:00:00:00:00:01"
    )
    guest.sh("ip link set eth1 up; ip link set eth0 up")
    while not guest.link_local(0):  # the kernel makes it when it has seen the carrier
        time.sleep(0.01)
    assert guest.link_local(0) == ["fe80::ff:fe00:1"]
    assert guest.become((INTERFACE, "index=0\nmac=02:00:00:00:00:09")).status == DONE
    assert guest.link_local(0) == ["fe80::ff:fe00:9"]
    assert guest.interface(0)[1] is True


@pytest.mark.parametrize(
    ("lines", "errno"),
    [
        ("index=9", 19),
        ("match=02:00:00:00:00:77", 19),
        ("index=x", 22),
        ("index=0\nmac=02:00:00:00:00", 22),
        ("index=0\nmac=02:00:00:00:00:01:02", 22),
        ("index=0\naddress=10.0.0.1", 22),
        ("index=0\naddress=10.0.0.1/33", 22),
        ("index=0\naddress=fd00::1/129", 22),
        ("index=0\naddress=10.0.0.256/24", 22),
        ("index=0\ndown", 22),
    ],
)
def test_wrong_interfaces(guest: Guest, lines: str, errno: int) -> None:
    before = guest.interface(0)
    result = guest.become((INTERFACE, lines))
    assert (result.status, result.errno) == (FAILED, errno)
    assert lines.splitlines()[-1] in result.message
    assert guest.interface(0) == before


def test_seed(guest: Guest) -> None:
    assert guest.become((SEED, os.urandom(512))).status == DONE


def test_clock(guest: Guest) -> None:
    # The same time as it is: the clock has no namespace.
    assert guest.become((CLOCK, u64(time.time_ns()))).status in (DONE, FAILED)
    result = guest.become((CLOCK, u64(2**64 - 1)))
    assert (result.status, "clock" in result.message) == (FAILED, True)
