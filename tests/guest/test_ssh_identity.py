"""A machine that becomes a copy: other SSH host keys than its original's, and no leases of it."""

from __future__ import annotations

from pathlib import Path

from attest.cluster.cluster import Cluster
from attest.guest.identity import Identity
from attest.machine.machine import Machine

RECIPE = """
base = "debian"
packages = ["openssh-server"]
"""
TYPES = ["ecdsa-sha2-nistp256", "ssh-ed25519", "ssh-rsa"]
KEYS = "/etc/ssh/ssh_host_*_key"
PRESENTED = "ssh-keyscan -T 60 127.0.0.1 2>/dev/null | cut -d' ' -f2,3 | sort"
SAID = "journalctl --unit ssh --output cat"
LEASES = "/var/lib/dhcp/dhclient.eth0.leases /run/systemd/netif/leases/2"


def presented(machine: Machine) -> dict[str, str]:
    """What sshd presents: a key for each type."""
    lines = machine.succeed(PRESENTED).splitlines()
    return {type: key for type, _, key in (line.partition(" ") for line in lines)}


def test_a_copy_has_ssh_host_keys_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "ssh.toml").write_text(RECIPE)
    nodes = {"machine": {"image": str(tmp_path / "ssh.toml")}}
    with Cluster({"nodes": nodes}, accelerator="tcg", cold=True) as cluster:
        machine = cluster["machine"]
        machine.wait_for_open_port(22)
        original = presented(machine)
        modes = machine.succeed(f"stat -c '%n %a %U' {KEYS}")
        machine.succeed(f"mkdir -p /var/lib/dhcp && touch {LEASES}")
        with machine._lifecycle.ready().connect_tcp("127.0.0.1", 22) as connection:
            assert connection.recv().startswith(b"SSH-2.0-")

            machine._lifecycle.ready().identity(Identity(copy=True, hostname="clone"))

            assert machine.succeed(f"cut -d' ' -f3 {KEYS}.pub").split() == ["root@clone"] * 3
            assert machine.succeed(f"stat -c '%n %a %U' {KEYS}") == modes
            machine.succeed(f"for lease in {LEASES}; do test ! -e $lease; done")
            # Some versions of sshd read the keys for each connection, others only at their start.
            machine.wait_until_succeeds(f"{SAID} | grep 'Received SIGHUP; restarting'", timeout=60)
            machine.wait_until_succeeds(
                f"diff <({PRESENTED}) <(cut -d' ' -f1,2 {KEYS}.pub | sort)", timeout=60
            )
            connection.sendall(b"SSH-2.0-test\r\n")
            assert b"ssh-ed25519" in connection.recv()  # what the old connection goes on with
        copied = presented(machine)
        assert sorted(original) == sorted(copied) == TYPES
        assert not set(original.values()) & set(copied.values())
