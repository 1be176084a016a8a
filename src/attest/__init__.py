"""attest: VM integration tests that start like unit tests.

The public names are imported when they are first used: ``attest --version`` needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attest.cluster.checkpoint import Checkpoint
    from attest.cluster.cluster import Cluster
    from attest.machine.machine import Machine, Snapshot, clone
    from attest.manifest import Manifest, load_manifest
    from attest.support.concurrency import wait_all

__all__ = [
    "Checkpoint",
    "Cluster",
    "Machine",
    "Manifest",
    "Snapshot",
    "clone",
    "load_manifest",
    "wait_all",
]

__version__ = "0.1.0"

_HOMES = {
    "Cluster": "attest.cluster.cluster",
    "Checkpoint": "attest.cluster.checkpoint",
    "Snapshot": "attest.machine.machine",
    "clone": "attest.machine.machine",
    "wait_all": "attest.support.concurrency",
    "Machine": "attest.machine.machine",
    "Manifest": "attest.manifest",
    "load_manifest": "attest.manifest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attest' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
