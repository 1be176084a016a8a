"""IDENTITY, in namespaces of its own: real netlink, on a pair of interfaces."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from attest.errors import MachineError
from attest.guest.agent.channel import AgentChannel
from attest.guest.agent.ssh_keys import new_host_keys
from attest.guest.identity import Identity
from tests.unit.agent_client import (
    DONE,
    EXEC,
    FAILED,
    IDENTITY,
    AgentClient,
    Fields,
    Result,
    root_only,
    running_agent,
    u32,
    u64,
)

pytestmark = [root_only, pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")]

HOST_NAME, MACHINE_ID, HOSTS, INTERFACE, SEED, CLOCK, COPY, SSH_HOST_KEY = range(1, 9)
ARGUMENT, ENVIRONMENT, FLAGS = 2, 5, 8
"""Fields of EXEC."""

INPUT_FOLLOWS = 1

ONE_PROCESSOR = pytest.mark.parametrize("processors", [{min(os.sched_getaffinity(0))}])

SET_UP = """
for directory in etc run var/lib; do mount --bind "$0/$directory" /$directory; done
ip link set lo up
ip link add eth1 type veth peer name eth0
exec "$@"
"""
OLD_ID, NEW_ID = "0123456789abcdef" * 2, "fedcba9876543210" * 2
SHARED = (
    "run/systemd/netif/leases/2",
    "var/lib/NetworkManager/internal-7c4e-eth0.lease",
    "var/lib/dhclient/dhclient-eth0.leases",
    "var/lib/dhcp/dhclient.eth0.leases",
    "var/lib/dhcp/dhclient.leases",
    "var/lib/dhcp/dhclient6.eth0.leases",
    "var/lib/dhcpcd/eth0.lease",
    "var/lib/dhcpcd/eth0.lease6",
    "var/lib/systemd/random-seed",
)
"""What a copy loses."""

OTHERS = (
    "run/systemd/netif/leases/.#2",
    "run/systemd/netif/state",
    "var/lib/NetworkManager/dnsmasq-eth0.leases",
    "var/lib/NetworkManager/old.lease/file",
    "var/lib/dhcp/dhcpd.leases",
    "var/lib/systemd/rfkill",
)
"""What it keeps."""

PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
RSA, ED25519 = "/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ed25519_key"
needs_ssh = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs openssh-client")


@dataclass(frozen=True)
class Guest:
    client: AgentClient
    root: Path
    """Where its /etc, /run and /var/lib are."""

    @property
    def etc(self) -> Path:
        return self.root / "etc"

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
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for directory in ("etc", "run", "var/lib"):
        (root / directory).mkdir(parents=True)
    etc = root / "etc"
    for name in ("passwd", "group", "ld.so.cache"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), etc)
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (etc / "hostname").write_text("before\n")
    (etc / "machine-id").write_text(OLD_ID + "\n")
    return root


@pytest.fixture
def processors() -> set[int]:
    """Those that the agent may use."""
    return os.sched_getaffinity(0)


@pytest.fixture
def agent_path(
    root: Path, tmp_path: Path, processors: set[int], request: pytest.FixtureRequest
) -> Iterator[Path]:
    prefix = [
        "taskset", "--cpu-list", ",".join(map(str, processors)),
        "unshare", "--net", "--uts", "--mount", "sh", "-ec", SET_UP, str(root),
    ]  # fmt: skip
    path = tmp_path / "agent"
    with running_agent(path, prefix=prefix, target=getattr(request, "param", "asan")):
        yield path


@pytest.fixture
def guest(agent_path: Path, root: Path) -> Iterator[Guest]:
    with AgentClient(agent_path) as client:
        yield Guest(client, root)


@pytest.fixture
def channel(agent_path: Path) -> Iterator[AgentChannel]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(agent_path))
    channel = AgentChannel("alice", sock)
    channel.connect(30)
    yield channel
    channel.close()


def fill(root: Path, *paths: str) -> None:
    """Make files that hold their names."""
    for path in paths:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)


def files(directory: Path) -> set[str]:
    """The files in a directory, and those in its directories."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_systems_own_environment(guest: Guest) -> None:
    path = guest.etc / "attest" / "environment"
    path.parent.mkdir()
    path.write_text("NIX_PATH=nixpkgs=/p\nDISPLAY=:7\n\nLAST=of all")
    _, stream = guest.client.run(EXEC, [(ARGUMENT, b"env"), (ENVIRONMENT, b"LAST=asked")])
    lines = set(stream.stdout.decode().splitlines())
    assert {"NIX_PATH=nixpkgs=/p", "DISPLAY=:7", "LAST=asked", "HOME=/root"} <= lines
    assert len(lines) == 8


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


def test_a_name_that_it_has_is_not_set_again(guest: Guest) -> None:
    """Whoever waits for the host name to change, as systemd does, is not woken."""
    watch = (
        "import select; file = open('/proc/sys/kernel/hostname'); poll = select.poll();"
        "poll.register(file, 0); poll.poll(0);"
        "print('watched', flush=True); input(); print(len(poll.poll(0)))"
    )
    for name, changes in (("alice", 1), ("alice", 0), ("bob", 1)):
        arguments = [(ARGUMENT, each) for each in (b"python3", b"-c", watch.encode())]
        stream = guest.client.open(EXEC, [*arguments, (FLAGS, u32(INPUT_FOLLOWS))])
        while b"watched" not in stream.stdout:
            guest.client.handle()
        assert guest.become((HOST_NAME, name)).status == DONE
        guest.client.data(stream, b"\n")
        guest.client.finish(stream)
        assert stream.stdout.split() == [b"watched", str(changes).encode()]


@ONE_PROCESSOR
def test_with_one_processor_a_small_file_is_written_over(guest: Guest) -> None:
    hosts = guest.etc / "hosts"
    before = hosts.stat().st_ino
    for lines in ("10.0.0.1 a\n" * 9, "10.0.0.1 b\n"):
        assert guest.become((HOSTS, lines)).status == DONE
        text = hosts.read_text()
        assert text == f"127.0.0.1 localhost\n# attest: begin\n{lines}# attest: end\n"
        assert hosts.stat().st_ino == before
    assert guest.become((HOSTS, "10.0.0.1 a\n" * 400)).status == DONE
    assert hosts.stat().st_ino != before, "it has more than one page"


@ONE_PROCESSOR
def test_a_file_with_two_names_stays_as_it_is_under_the_other(guest: Guest) -> None:
    hosts, other = guest.etc / "hosts", guest.root / "other"
    other.hardlink_to(hosts)
    assert guest.become((HOSTS, "10.0.0.1 a")).status == DONE
    assert "10.0.0.1 a" in hosts.read_text()
    assert other.read_text() == "127.0.0.1 localhost\n"


@ONE_PROCESSOR
def test_with_one_processor_a_link_is_replaced(guest: Guest) -> None:
    hosts, other = guest.etc / "hosts", guest.root / "other"
    hosts.rename(other)
    hosts.symlink_to(other)
    assert guest.become((HOSTS, "10.0.0.1 a")).status == DONE
    assert "10.0.0.1 a" in hosts.read_text()
    assert not hosts.is_symlink()
    assert other.read_text() == "127.0.0.1 localhost\n"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_with_two_processors_a_file_is_replaced_at_once(guest: Guest) -> None:
    """Whoever has opened it goes on reading the old one."""
    hosts = guest.etc / "hosts"
    with hosts.open() as old:
        assert guest.become((HOSTS, "10.0.0.1 a")).status == DONE
        assert old.read() == "127.0.0.1 localhost\n"
    assert "10.0.0.1 a" in hosts.read_text()


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
    guest.sh(f"mkdir -p /run/log/journal/{OLD_ID}")
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


def test_who_it_is_already_needs_nothing_written(guest: Guest) -> None:
    """A machine with a full disk has the same identity when it reboots."""
    who = (HOST_NAME, "alice"), (MACHINE_ID, NEW_ID), (HOSTS, "10.0.0.1 a")
    assert guest.become(*who).status == DONE
    guest.sh("mount -o remount,ro,bind /etc")
    assert guest.become(*who).status == DONE
    guest.sh("mount -o remount,rw,bind /etc")


# gcc's optimisation once dropped what the agent wrote into a message to the kernel.
@pytest.mark.parametrize("agent_path", ["asan", "native"], indirect=True)
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
    # Nobody looks for duplicates: for so long, the address could not be used.
    assert "fd00::2/64 scope global nodad" in guest.sh("ip address show eth1")
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


def test_a_copy_loses_leases_and_the_seed(guest: Guest) -> None:
    fill(guest.root, *SHARED, *OTHERS)
    result = guest.become((COPY, u32(1)))
    assert (result.status, result.value) == (DONE, "")
    assert files(guest.root / "run") | files(guest.root / "var") == {
        path.partition("/")[2] for path in OTHERS
    }


def test_a_copy_that_has_nothing_of_its_original(guest: Guest) -> None:
    result = guest.become((COPY, u32(1)))
    assert (result.status, result.value) == (DONE, "")


@pytest.mark.parametrize("fields", [[], [(COPY, u32(0))]])
def test_no_copy_keeps_all(guest: Guest, fields: list[tuple[int, bytes]]) -> None:
    fill(guest.root, *SHARED, RSA)
    result = guest.become((HOST_NAME, "alice"), *fields)
    assert (result.status, result.value) == (DONE, "")
    assert all((guest.root / path).exists() for path in SHARED)


def test_a_lease_that_cannot_be_removed(guest: Guest) -> None:
    lease = "var/lib/dhcp/dhclient.leases"
    fill(guest.root, lease)
    guest.sh("mount --bind /var/lib /var/lib; mount -o remount,ro,bind /var/lib")
    result = guest.become((COPY, u32(1)))
    assert (result.status, result.errno) == (FAILED, 30)
    assert f"/{lease}" in result.message


def test_a_copys_ssh_host_keys_are_reported(guest: Guest) -> None:
    linked = "/etc/ssh/ssh_host_ecdsa_key"
    fill(guest.root, RSA, f"{RSA}.pub", f"{RSA}-cert.pub", "/etc/ssh/ssh_config", "/etc/key")
    (guest.etc / "ssh/ssh_host_ecdsa_key").symlink_to("../key")
    (guest.etc / "ssh/ssh_host_lost_key").symlink_to("nothing")
    (guest.etc / "ssh/ssh_host_directory_key").mkdir()
    result = guest.become((COPY, u32(1)))
    assert result.status == DONE
    assert sorted(result.value.splitlines(keepends=True)) == [f"{linked}\n", f"{RSA}\n"]
    assert (guest.root / RSA[1:]).read_text() == RSA


@pytest.mark.parametrize(("count", "status"), [(64, DONE), (65, FAILED)])
def test_as_many_ssh_host_keys_as_fit(guest: Guest, count: int, status: int) -> None:
    fill(guest.root, *(f"/etc/ssh/ssh_host_{number:0240}_key" for number in range(count)))
    result = guest.become((COPY, u32(1)))
    assert (result.status, result.errno) == (status, 7 if status == FAILED else None)
    assert len(result.value.splitlines()) == (count if status == DONE else 0)


def test_ssh_host_keys_are_replaced(guest: Guest) -> None:
    fill(guest.root, RSA, f"{RSA}.pub", f"{RSA}.attest")
    old = guest.root / RSA[1:]
    old.chmod(0o640)
    os.chown(old, 7, 8)
    os.chown(f"{old}.pub", 9, 10)
    long = PRIVATE.replace("AAAA", "\n".join(["A" * 70] * 1000))
    result = guest.become(
        (SSH_HOST_KEY, f"{RSA}\nssh-rsa AAAA root@alice\n{long}"),
        (SSH_HOST_KEY, f"{ED25519}\nssh-ed25519 AAAA root@alice\n{PRIVATE}"),
    )
    assert result.status == DONE
    found = {}
    for name in sorted(files(guest.etc / "ssh")):
        path = guest.etc / "ssh" / name
        status = path.stat()
        found[name] = (path.read_text(), status.st_mode & 0o7777, status.st_uid, status.st_gid)
    assert found == {
        "ssh_host_ed25519_key": (PRIVATE, 0o600, 0, 0),
        "ssh_host_ed25519_key.pub": ("ssh-ed25519 AAAA root@alice\n", 0o644, 0, 0),
        "ssh_host_rsa_key": (long, 0o640, 7, 8),
        "ssh_host_rsa_key.pub": ("ssh-rsa AAAA root@alice\n", 0o644, 9, 10),
    }


@pytest.mark.parametrize(
    "key",
    [
        "",
        RSA,
        f"{RSA}\n",
        f"{RSA}\nssh-rsa AAAA",
        f"{RSA}\nssh-rsa AAAA\n",
        f"{RSA}\n\n{PRIVATE}",
        f"\nssh-rsa AAAA\n{PRIVATE}",
        f"etc/ssh/ssh_host_rsa_key\nssh-rsa AAAA\n{PRIVATE}",
    ],
)
def test_wrong_ssh_host_keys(guest: Guest, key: str) -> None:
    fill(guest.root, RSA, f"{RSA}.pub")
    result = guest.become((SSH_HOST_KEY, key))
    assert (result.status, result.errno) == (FAILED, 22)
    assert "SSH host key" in result.message
    assert [(guest.root / path).read_text() for path in (RSA[1:], f"{RSA[1:]}.pub")] == [
        RSA,
        f"{RSA}.pub",
    ]


def test_an_ssh_host_key_without_a_place(guest: Guest) -> None:
    result = guest.become((SSH_HOST_KEY, f"/etc/no/key\nssh-rsa AAAA\n{PRIVATE}"))
    assert (result.status, result.errno) == (FAILED, 2)
    assert "/etc/no/key" in result.message


@pytest.mark.parametrize(
    ("name", "pid_file", "reloaded"),
    [
        ("sshd", "{pid}\n", True),
        ("other", "{pid}\n", False),
        ("sshd", "", False),
        ("sshd", None, False),
    ],
)
def test_sshd_reads_its_new_keys(
    guest: Guest, tmp_path: Path, name: str, pid_file: str | None, reloaded: bool
) -> None:
    shutil.copy("/bin/sleep", tmp_path / name)  # the name of a process is its program's
    (guest.etc / "ssh").mkdir()
    hear = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # also below nohup
    with subprocess.Popen([tmp_path / name, "1000"], preexec_fn=hear) as daemon:
        try:
            if pid_file is not None:
                (guest.root / "run/sshd.pid").write_text(pid_file.format(pid=daemon.pid))
            assert guest.become((COPY, u32(1))).status == DONE
            assert daemon.poll() is None
            result = guest.become((SSH_HOST_KEY, f"{RSA}\nssh-rsa AAAA\n{PRIVATE}"))
            if not reloaded:  # of two signals that wait, the hang-up would be taken first
                daemon.terminate()
            assert daemon.wait(30) == -(signal.SIGHUP if reloaded else signal.SIGTERM)
        finally:
            daemon.kill()
    assert result.status == DONE


def keygen(*arguments: str | Path) -> str:
    done = subprocess.run(["ssh-keygen", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def become_a_copy(channel: AgentChannel, root: Path, hostname: str | None) -> dict[str, str]:
    """The bits, comment and type of each new key, by its file's name."""
    names = [f"ssh_host_{kind}_key" for kind in ("ecdsa", "ed25519", "rsa")]
    fill(root, *(f"/etc/ssh/{name}{end}" for name in names for end in ("", ".pub")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch := root.parent / "scratch"))
        scratch.mkdir()
        try:
            channel.identity(Identity(copy=True, hostname=hostname))
        finally:
            assert list(scratch.iterdir()) == []
    described = {}
    for name in names:
        private = root / "etc/ssh" / name
        private.chmod(0o600)  # what was there before was for all to read
        public = Path(f"{private}.pub").read_text()
        assert public.split()[:2] == keygen("-y", "-f", private).split()[:2]
        bits, _, *comment = keygen("-l", "-f", f"{private}.pub").split()
        described[name] = " ".join([bits, *comment])
    return described


@needs_ssh
def test_the_channel_gives_a_copy_new_ssh_host_keys(channel: AgentChannel, root: Path) -> None:
    assert become_a_copy(channel, root, "bob") == {
        "ssh_host_ecdsa_key": "256 root@bob (ECDSA)",
        "ssh_host_ed25519_key": "256 root@bob (ED25519)",
        "ssh_host_rsa_key": "3072 root@bob (RSA)",
    }


@needs_ssh
def test_new_ssh_host_keys_name_the_guest(channel: AgentChannel, root: Path) -> None:
    channel.identity(Identity(hostname="carol"))
    described = become_a_copy(channel, root, None)
    assert described["ssh_host_rsa_key"] == "3072 root@carol (RSA)"


@needs_ssh
def test_the_guest_makes_its_keys_where_the_host_cannot(
    channel: AgentChannel, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/no/such")
        fill(root, ED25519)
        channel.identity(Identity(copy=True, hostname="dave"))
    assert keygen("-l", "-f", root / f"{ED25519[1:]}.pub").split()[2:] == ["root@dave", "(ED25519)"]


def test_a_key_of_another_type_is_named(channel: AgentChannel, root: Path) -> None:
    fill(root, "/etc/ssh/ssh_host_dsa_key")
    with pytest.raises(MachineError, match=r"alice: .*/etc/ssh/ssh_host_dsa_key"):
        channel.identity(Identity(copy=True))


@pytest.fixture
def ssh_keygen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the host's `ssh-keygen` a shell script."""

    def make(script: str) -> None:
        (tmp_path / "bin").mkdir()
        path = tmp_path / "bin/ssh-keygen"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    return make


def test_an_ssh_keygen_that_does_not_end(
    channel: AgentChannel, ssh_keygen: Callable[[str], None]
) -> None:
    ssh_keygen("exec sleep 1000")
    with pytest.raises(MachineError, match=r"alice: .* on this host: it did not end in 0\.5 s"):
        new_host_keys(channel, "alice", ["/etc/ssh/ssh_host_rsa_key"], "bob", limit=0.5)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("echo nothing to draw from >&2; exit 3", "on this host: nothing to draw from"),
        ("exit 3", "exit code 3"),
        ('for path; do :; done; echo key >"$path"; echo key >"$path.pub"', "no key pairs"),
    ],
)
def test_an_ssh_keygen_that_fails(
    channel: AgentChannel, root: Path, ssh_keygen: Callable[[str], None], program: str, why: str
) -> None:
    ssh_keygen(program)
    with pytest.raises(MachineError, match=f"(?s)alice: .*{why}"):
        become_a_copy(channel, root, "bob")
    assert (root / "etc/ssh/ssh_host_rsa_key").read_text() == RSA
