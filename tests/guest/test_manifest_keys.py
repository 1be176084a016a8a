"""The examples of docs/manifest.md, run: what each key says is so in the machine.

Those of keys that go together are one machine, as booting takes the time. Left out are those that
need a host with KVM, with reserved memory, or with an image of its own; the tests of their subjects
have them.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from manifest_page import examples

from attest.cluster.cluster import Cluster
from attest.machine.machine import Machine

_TOGETHER = (
    "disks", "files", "ipv6", "memory", "number", "ready_unit", "spare_eth0", "start_timeout",
    "vcpus", "vlans", "warm_steps", "warm_until",
)  # fmt: skip


def _node(key: str) -> dict[str, Any]:
    """The node of the example of a key."""
    (node,) = tomllib.loads(examples()["node"][key])["nodes"].values()
    assert isinstance(node, dict)
    return node


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("examples")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", directory / "data.qcow2", "8M"], check=True
    )
    for path in ("dist/app.whl", "pages/index.html"):
        (directory / path).parent.mkdir()
        (directory / path).write_text(path)
    manifest = tomllib.loads(examples()["manifest"]["defaults"])
    together: dict[str, Any] = {}
    for key in _TOGETHER:
        together |= _node(key)
    manifest["nodes"]["together"] = {"image": "tiny", **together}
    with Cluster({**manifest, "directory": str(directory)}, accelerator="tcg") as cluster:
        cluster.start_all()
        yield cluster


@pytest.fixture
def together(cluster: Cluster) -> Machine:
    return cluster["together"]


def _mebibytes(machine: Machine) -> int:
    """The memory that the guest has; its kernel keeps some for itself."""
    return int(machine.succeed("awk '/^MemTotal/ { print $2 }' /proc/meminfo")) >> 10


def test_defaults_are_for_nodes_that_say_nothing_else(cluster: Cluster) -> None:
    assert _mebibytes(cluster["client"]) < 80 < _mebibytes(cluster["server"]) <= 128
    cluster["client"].succeed("ping -c1 -W5 server")


def test_a_size_with_a_unit(together: Machine) -> None:
    assert 128 < _mebibytes(together) <= 256
    sizes = together.succeed("cat /sys/block/vd*/size").split()
    assert {str(1536 << 11), str(8 << 11)} <= set(sizes)


def test_processors(together: Machine) -> None:
    assert together.succeed("nproc") == "2\n"


def test_interfaces_are_as_attest_says(together: Machine) -> None:
    spare, *others = together.interfaces
    assert (spare.name, spare.vlan, [each.vlan for each in others]) == ("eth0", None, [1, 2])
    for each in together.interfaces:
        shown = together.succeed(f"ip address show dev {each.name}")
        assert each.mac in shown
        assert [address for address in each.addresses if f" {address} " not in shown] == []
    assert together.ip(vlan=2) == "192.168.2.10"
    assert together.ip(vlan=2, family=6) == "2001:db8:2::10"


def test_files_are_there(together: Machine) -> None:
    assert together.succeed("cat /srv/app.whl /srv/pages/index.html") == (
        "dist/app.whlpages/index.html"
    )


def test_warm_steps_have_been_done(together: Machine) -> None:
    assert together.succeed("cat /srv/data/state") == "loaded\n"
