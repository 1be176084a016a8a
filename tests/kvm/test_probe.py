"""The probe where KVM works; `tests/unit/test_kvm_probe.py` has where it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attest.host import kvm_pace
from attest.host.kvm_probe import Patience, choose, probe_kvm
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore


@pytest.mark.short
def test_kvm_is_taken_since_a_guest_has_run_with_it() -> None:
    tiny = ImageStore().build(load_recipe("tiny"))
    assert choose("auto", tiny) == "kvm"
    probe = probe_kvm(image=tiny)
    assert (probe.usable, probe.reason) == (True, "a guest booted with it")


@pytest.mark.short
def test_kvm_that_is_doubted_is_found_to_run_guests_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ImageStore().build(load_recipe("tiny"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paces: list[float] = []

    def pace(device: Path) -> float:
        command = [sys.executable, "-I", kvm_pace.__file__, str(device)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        paces.append(float(result.stdout))
        return paces[-1]

    said: list[str] = []
    probe = probe_kvm(image=tiny, patience=Patience(doubt=0), pace=pace, tell=said.append)
    assert probe.usable, probe.reason
    assert paces, "nobody has asked"
    assert said[-1] == "KVM works"
    print(f"nanoseconds for two instructions: {paces}")
