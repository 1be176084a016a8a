"""What a machine cannot be at once."""

from pathlib import Path
from typing import Any

import pytest

from attest.vmm.base import MachineSpec, Saved

FILE = Path("/memory")
MAPPED = Saved(FILE, Path("/state"))
WHOLE = Saved(None, Path("/state"))


def spec(**what: Any) -> MachineSpec:
    image: Any = None  # which it is makes no difference
    return MachineSpec(
        name="m", image=image, vcpus=1, machine="microvm", accelerator="tcg",
        directory=Path("/scratch"), **{"memory": 96, **what},
    )  # fmt: skip


@pytest.mark.parametrize(
    "what",
    [
        {"saved": MAPPED},
        {"saved": WHOLE, "memory_file": FILE, "paused": True},
        {"saved": MAPPED, "memory_file": Path("/other"), "paused": True},
        {"saved": WHOLE, "hugepages": True, "paused": True},
        {"saved": MAPPED, "hugepages": True},
        {"memory_file": FILE, "prefault": True},
        {"hugepages": True, "prefault": True},
        {"shared_memory": True, "prefault": True},
    ],
)
def test_what_goes_together(what: dict[str, Any]) -> None:
    spec(**what)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"memory_file": FILE, "hugepages": True}, "in no file of its own"),
        ({"shared_memory": True, "hugepages": True}, "in no file of its own"),
        ({"shared_memory": True, "saved": MAPPED}, "begins empty"),
        ({"hugepages": True, "memory": 97}, "2 MiB pages"),
        ({"paused": True}, "only what is loaded"),
    ],
)
def test_what_does_not(what: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        spec(**what)
