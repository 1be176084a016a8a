"""Network cards as NixOS's test machines have them: a first one on no network, and IPv6."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import MachineError
from attest.machine.machine import Machine

_NIXOS: dict[str, Any] = {"image": "tiny", "memory": 96, "spare_eth0": True, "ipv6": True}
_NODES: dict[str, dict[str, Any]] = {
    "far": {**_NIXOS, "vlans": [2, 3]},
    "near": {**_NIXOS, "vlans": [1, 2]},
    "plain": {"image": "tiny", "memory": 96, "vlans": [1]},
}


@pytest.fixture(params=[True, False], ids=["cold", "warm"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster({"nodes": _NODES}, accelerator="tcg", cold=request.param) as cluster:
        cluster.start_all()
        yield cluster


def _addresses(machine: Machine, card: str) -> list[str]:
    """All that are not link-local."""
    words = machine.succeed(f"ip address show {card}").split()
    found = [after for word, after in pairwise(words) if word in ("inet", "inet6")]
    return [address for address in found if not address.startswith("fe80:")]


def _reaches(machine: Machine, other: str) -> None:
    machine.succeed(f"ping -4 -c1 -W5 {other}", f"ping -6 -c1 -W5 {other}")


def test_the_networks_begin_with_eth1(cluster: Cluster) -> None:
    far, near, plain = (cluster[name] for name in _NODES)
    assert _addresses(near, "eth0") == []
    assert "UP" not in near.succeed("ip link show eth0")
    assert _addresses(near, "eth1") == ["192.168.1.2/24", "2001:db8:1::2/64"]
    assert _addresses(near, "eth2") == ["192.168.2.2/24", "2001:db8:2::2/64"]
    assert _addresses(far, "eth2") == ["192.168.3.1/24", "2001:db8:3::1/64"]
    assert _addresses(plain, "eth0") == ["192.168.1.3/24"]
    macs = {"eth0": "00:02", "eth1": "01:02", "eth2": "02:02"}
    for card, mac in macs.items():
        assert f"52:54:00:12:{mac}" in near.succeed(f"ip link show {card}")
    _reaches(near, "far")
    _reaches(far, "near")
    plain.succeed("ping -4 -c1 -W5 near")


def test_names_stand_for_what_both_are_on_and_then_for_the_first_network(cluster: Cluster) -> None:
    near, plain = cluster["near"], cluster["plain"]
    named = near.succeed("grep -v localhost /etc/hosts").splitlines()
    assert [line for line in named if not line.startswith("#")] == [
        "192.168.2.1 far", "2001:db8:2::1 far",
        "192.168.1.2 near", "2001:db8:1::2 near", "192.168.2.2 near", "2001:db8:2::2 near",
        "192.168.1.3 plain",
    ]  # fmt: skip
    assert plain.succeed("grep ' far$' /etc/hosts") == "192.168.2.1 far\n2001:db8:2::1 far\n"


def test_the_spare_card_reaches_nobody(cluster: Cluster) -> None:
    far, near = cluster["far"], cluster["near"]
    for machine, address in ((far, "10.0.0.1"), (near, "10.0.0.2")):
        machine.succeed(f"ip address add {address}/24 dev eth0; ip link set eth0 up")
    near.fail("ping -c1 -W1 10.0.0.1")
    near.succeed("grep '^10.0.0.1 .* eth0' /proc/net/arp")  # it has looked there


def test_the_networks_alone_are_blocked(cluster: Cluster) -> None:
    near = cluster["near"]
    near.succeed("ip link set eth0 up")
    near.block()
    for family in (4, 6):
        near.fail(f"ping -{family} -c1 -W1 far")
    near.wait_until_succeeds("grep -x 0 /sys/class/net/eth2/carrier")
    assert near.succeed("cat /sys/class/net/eth0/carrier") == "1\n"
    near.unblock()
    near.wait_until_succeeds("ping -4 -c1 -W1 far && ping -6 -c1 -W1 far")


def test_a_clone_and_a_checkpoint_have_the_same_cards(cluster: Cluster) -> None:
    far, near = cluster["far"], cluster["near"]
    (clone,) = cluster.clone(near.snapshot("now"), ["twin"])
    assert _addresses(clone, "eth0") == []
    assert _addresses(clone, "eth1") == ["192.168.1.4/24", "2001:db8:1::4/64"]
    assert "52:54:00:12:00:04" in clone.succeed("ip link show eth0")
    _reaches(far, "twin")
    _reaches(clone, "near")
    checkpoint = cluster.checkpoint()
    near.succeed("ip address flush dev eth1; ip address flush dev eth2")
    cluster.restore(checkpoint)
    _reaches(near, "far")
    _reaches(near, "twin")


def test_a_guest_keeps_who_it_is() -> None:
    """What NixOS's guests are of themselves stays, in clones of their snapshot too."""
    node = {"image": "tiny", "memory": 96, "own_identity": True}
    for _ in range(2):
        nodes = {
            "own": node, "other": {**node, "vlans": [1, 2]},
            "third": {"image": "tiny", "memory": 96},
        }  # fmt: skip
        with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
            cluster.start_all()
            own = cluster["own"]
            assert own.succeed("hostname").strip() == "(none)"
            assert _addresses(own, "eth0") == []
            assert "52:54:00:12:01:02" in own.succeed("ip link show eth0")
            assert "other" not in own.succeed("cat /etc/hosts || true")
            third = cluster["third"]
            known = {line.split()[1] for line in third.succeed("cat /etc/hosts").splitlines()}
            assert known & set(nodes) == {"third"}
            (fourth,) = third.snapshot("now").clone()
            fourth.connect()
            assert fourth.name not in own.succeed("cat /etc/hosts || true")
            with pytest.raises(MachineError, match="each clone would be the same machine"):
                own.snapshot("now").clone()
