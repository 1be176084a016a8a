"""`attest doctor` where KVM works; `tests/unit/test_doctor.py` has where something lacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.vmm.registry import BACKENDS
from tests.kvm.conftest import Vmm


@pytest.mark.short
def test_kvm_and_the_vmm_are_found(vmm: Vmm) -> None:
    ImageStore().build(load_recipe("tiny"))
    result = subprocess.run(
        [sys.executable, "-m", "attest", "doctor"], capture_output=True, text=True
    )
    assert "ok       KVM: a guest booted with it\n" in result.stdout
    if vmm.name != "qemu":
        subject, _, version = str(BACKENDS[vmm.name].find("")).rpartition(" ")[0].rpartition(" ")
        assert f"ok       {subject}: {version} (" in result.stdout
