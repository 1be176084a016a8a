"""Machines that several tests share: booting is what takes the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attest.cluster.cluster import Cluster
from attest.machine.machine import Machine

_ACCELERATOR = "tcg"
"""So that a run says the same on every host; KVM has tests of its own."""


@pytest.fixture(scope="session")
def debian() -> Iterator[Cluster]:
    """Two Debian machines with systemd, `a` and `b`, on network 1; `b` is on network 2 too."""
    nodes = {"a": {"image": "debian"}, "b": {"image": "debian", "vlans": [1, 2]}}
    with Cluster({"nodes": nodes}, accelerator=_ACCELERATOR) as cluster:
        cluster.start_all()
        yield cluster


@pytest.fixture
def machine(debian: Cluster) -> Machine:
    """One Debian machine, ready."""
    return debian["a"]


@pytest.fixture
def tiny() -> Iterator[Machine]:
    """A fresh machine of the tiny image, which the test may spoil."""
    nodes = {"machine": {"image": "tiny", "memory": 96}}
    with Cluster({"nodes": nodes}, accelerator=_ACCELERATOR) as cluster:
        yield cluster["machine"]
