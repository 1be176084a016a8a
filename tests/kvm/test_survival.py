"""What a machine keeps, with each VMM."""

from __future__ import annotations

import pytest

from tests.kvm.conftest import Vmm
from tests.survival import documented, observe


@pytest.mark.timeout(900)
def test_a_machine_keeps_what_the_page_says(vmm: Vmm) -> None:
    keys = {"image": "debian", "memory": 256, "disks": [{"size": 8}], "allow_reboot": True}
    with vmm.cluster("m", **keys) as cluster:
        assert observe(cluster["m"]) == documented()
