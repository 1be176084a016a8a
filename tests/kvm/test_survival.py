"""What a machine keeps, with each VMM."""

from __future__ import annotations

from pathlib import Path

from tests.kvm.conftest import Vmm
from tests.lasting import describe_small
from tests.survival import documented, observe


def test_a_machine_keeps_what_the_page_says(vmm: Vmm, tmp_path: Path) -> None:
    image = str(describe_small(tmp_path))
    with vmm.cluster("m", image=image, disks=[{"size": 8}], allow_reboot=True) as cluster:
        seen, said = observe(cluster["m"]), documented()
    for each in seen, said:
        del each["`/tmp`"]  # which Debian empties
    assert seen == said
