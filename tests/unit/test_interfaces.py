"""What attest knows of a machine's addresses, without asking the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attest.errors import UsageError
from attest.events import EventLog
from attest.machine.contracts import MachineHost
from attest.machine.interface import Interface, interfaces_of
from attest.machine.machine import Machine
from attest.manifest import Node
from attest.node.attachments import attachments_of


def _machine(**keys: Any) -> Machine:
    """The machine of a node with these keys, which has number 3; it is not started."""
    node = Node(**keys)
    interfaces = interfaces_of(attachments_of(node, 3), own_identity=node.own_identity)
    lifecycle: Any = SimpleNamespace(name="web")
    host = MachineHost(Path(), Path(), Path(), lambda *_: None, Path(), interfaces)
    return Machine(lifecycle, host, EventLog(), lambda *_: pytest.fail("not called"))


def test_addresses_are_those_of_the_network_and_the_family() -> None:
    machine = _machine(vlans=[1, 7], ipv6=True)
    assert machine.ip() == "192.168.1.3"
    assert machine.ip(7) == "192.168.7.3"
    assert machine.ip(vlan=7, family=6) == "2001:db8:7::3"


def test_interfaces_are_in_the_order_of_the_cards() -> None:
    assert _machine(vlans=[2], spare_eth0=True).interfaces == (
        Interface("eth0", None, "52:54:00:12:00:03", ()),
        Interface("eth1", 2, "52:54:00:12:02:03", ("192.168.2.3/24",)),
    )


@pytest.mark.parametrize(
    ("keys", "asked", "said"),
    [
        ({"vlans": [2, 5]}, {}, "ip(vlan=1, family=4): it is not on that network; it is on 2, 5"),
        ({"vlans": []}, {}, "it is not on that network; it is on none that attest knows of"),
        ({}, {"family": 6}, "it has no such address there; it has 192.168.1.3/24"),
        ({"own_identity": True}, {}, "its image says who it is"),
        ({}, {"vlan": 0}, "it is not on that network; it is on 1"),
        ({"spare_eth0": True}, {"vlan": 0}, "it is not on that network; it is on 1"),
        ({}, {"family": 5}, "family: expected 4 or 6, found 5"),
    ],
)
def test_an_address_that_is_not_there_is_an_error_that_says_what_is(
    keys: dict[str, Any], asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        _machine(**keys).ip(**asked)
    assert str(caught.value).startswith("web: ip")
    assert said in str(caught.value)
