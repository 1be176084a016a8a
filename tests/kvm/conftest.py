"""Machines with KVM, of each VMM that there is: QEMU, and those that the environment names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from attest.cluster.cluster import Cluster
from attest.host.kvm_probe import probe_kvm
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.machine.instance_states import DEFAULT_LIMITS, Limits
from attest.machine.machine import Machine

_GIVEN = {"firecracker": "ATTEST_FIRECRACKER", "cloud-hypervisor": "ATTEST_CLOUD_HYPERVISOR"}
THERE = ["qemu", *(name for name, variable in _GIVEN.items() if os.environ.get(variable))]


@pytest.fixture(scope="session", autouse=True)
def _kvm() -> None:
    """Skip all where KVM does not work, except for `tools/kvm_lab.py`: it has seen that it does."""
    if os.environ.get("ATTEST_KVM_SEEN"):
        return
    probe = probe_kvm(image=ImageStore().build(load_recipe("tiny")))
    if not probe.usable:
        pytest.skip(f"needs KVM: make test-kvm ({probe.reason})")


@dataclass(frozen=True)
class Vmm:
    """The VMM under test, and how a test asks for it."""

    name: str

    def nodes(self, *names: str, **more: Any) -> dict[str, dict[str, Any]]:
        """A manifest's ``nodes``: tiny machines with these names."""
        chosen = {} if self.name == "qemu" else {"vmm": self.name}
        return {name: {"image": "tiny", "memory": 128, **chosen, **more} for name in names}

    @property
    def options(self) -> list[str]:
        """Of `attest run`."""
        return ["--accel", "kvm"]

    def cluster(
        self, *names: str, cold: bool = False, limits: Limits = DEFAULT_LIMITS, **more: Any
    ) -> Cluster:
        """Tiny machines with these names, and with more keys of nodes."""
        manifest = {"nodes": self.nodes(*names, **more)}
        return Cluster(manifest, accelerator="kvm", cold=cold, limits=limits)


@pytest.fixture(scope="session", params=THERE)
def vmm(request: pytest.FixtureRequest) -> Vmm:
    """Each VMM in turn."""
    return Vmm(request.param)


@pytest.fixture(scope="module")
def machine(vmm: Vmm) -> Iterator[Machine]:
    """A machine that the tests of a module share, and spoil for no other."""
    with vmm.cluster("machine") as cluster:
        yield cluster["machine"]
