"""attest: VM integration tests that start like unit tests.

The public names are imported when they are first used: ``attest --version`` needs none.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what a type checker takes for true, without importing `typing`
if TYPE_CHECKING:
    from attest.cluster.checkpoint import Checkpoint
    from attest.cluster.cluster import Cluster
    from attest.cluster.options import ClusterOptions
    from attest.errors import (
        AttestError,
        ChannelError,
        CommandFailed,
        ConditionFailed,
        HostError,
        ImageBuildError,
        MachineError,
        ManifestError,
        RecipeError,
        TestFailure,
        UsageError,
        WaitFailed,
    )
    from attest.machine.completed import Completed
    from attest.machine.interface import Interface
    from attest.machine.machine import Machine, Snapshot, clone
    from attest.manifest import Manifest, load_manifest
    from attest.support.concurrency import wait_all

__all__ = [
    "Checkpoint",
    "Cluster",
    "ClusterOptions",
    "Completed",
    "Interface",
    "Machine",
    "Manifest",
    "Snapshot",
    "clone",
    "load_manifest",
    "wait_all",
    # errors
    "AttestError",
    "ChannelError",
    "CommandFailed",
    "ConditionFailed",
    "HostError",
    "ImageBuildError",
    "MachineError",
    "ManifestError",
    "RecipeError",
    "TestFailure",
    "UsageError",
    "WaitFailed",
]

__version__ = "0.1.0"

_HOMES = {
    "Cluster": "attest.cluster.cluster",
    "ClusterOptions": "attest.cluster.options",
    "Checkpoint": "attest.cluster.checkpoint",
    "Completed": "attest.machine.completed",
    "Interface": "attest.machine.interface",
    "Snapshot": "attest.machine.machine",
    "clone": "attest.machine.machine",
    "wait_all": "attest.support.concurrency",
    "Machine": "attest.machine.machine",
    "Manifest": "attest.manifest",
    "load_manifest": "attest.manifest",
}
"""The module of each public name; what is not here is an error."""


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


if not TYPE_CHECKING:  # a type checker would take any name for one of attest's

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'attest' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(_HOMES.get(name, "attest.errors")), name)
