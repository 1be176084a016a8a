"""The probe where KVM works; `tests/unit/test_kvm_probe.py` has where it does not."""

from __future__ import annotations

import pytest

from attest.host.kvm_probe import choose, probe_kvm
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore


@pytest.mark.short
def test_kvm_is_taken_since_a_guest_has_run_with_it() -> None:
    tiny = ImageStore().build(load_recipe("tiny"))
    assert choose("auto", tiny) == "kvm"
    probe = probe_kvm(image=tiny)
    assert (probe.usable, probe.reason) == (True, "a guest booted with it")
