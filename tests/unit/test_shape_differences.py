"""What is said of snapshots that do not fit."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from attest.snapshot.differences import why_none_fits
from attest.snapshot.shape import Shape

SHAPE = Shape(
    image="0" * 64, image_name="tiny", vmm="QEMU", accelerator="tcg", cpu="a processor",
    machine="microvm", memory=512, vcpus=1, nics=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (replace(SHAPE, memory=256), "no snapshot fits: memory 512 MiB → 256 MiB"),
        (
            replace(SHAPE, nics=2, disks=("empty 8 MiB",)),
            "no snapshot fits: network cards 1 → 2; disks none → empty 8 MiB",
        ),
        (replace(SHAPE, image="1" * 64), f"no snapshot fits: image {'0' * 12} → {'1' * 12}"),
        (replace(SHAPE, warm_steps=("x" * 99,)), "no snapshot fits: other warm steps"),
        (replace(SHAPE, image_name="debian", memory=256), ""),
        (replace(SHAPE, image="1", memory=1, nics=5, vcpus=2), ""),
    ],
)
def test_what_has_changed(wanted: Shape, said: str) -> None:
    far = replace(SHAPE, memory=1024, vcpus=8)
    assert why_none_fits([far, SHAPE], wanted) == said


def test_nothing_is_said_where_there_is_nothing() -> None:
    assert why_none_fits([], SHAPE) == ""
