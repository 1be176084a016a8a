"""Finding the jailer, and who may use it; what it does is in `tests/kvm`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attest.errors import HostError
from attest.vmm.firecracker.jailer import find_jailer

_CHECK = """
from attest.errors import HostError
from attest.vmm.firecracker.jailer import check_root
try:
    check_root()
except HostError as error:
    print(error.message)
"""


def _program(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o755)
    return path


@pytest.fixture
def search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are looked for; it is empty."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.delenv("ATTEST_JAILER", raising=False)
    return path


def test_the_jailer_that_was_named_comes_first_then_the_one_of_the_release(
    search_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firecracker = tmp_path / "release/firecracker-v1.16.1-x86_64"
    found = _program(search_path / "jailer")
    assert find_jailer(firecracker) == found
    beside = _program(tmp_path / "release/jailer-v1.16.1-x86_64")
    assert find_jailer(firecracker) == beside
    named = _program(tmp_path / "named")
    monkeypatch.setenv("ATTEST_JAILER", str(named))
    assert find_jailer(firecracker) == named


def test_a_jailer_that_is_missing(search_path: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"`jail = true`: .* was not found") as caught:
        find_jailer(tmp_path / "firecracker")
    assert "ATTEST_JAILER" in caught.value.hint


@pytest.mark.parametrize(
    ("user", "who"),
    [("--map-root-user", "root of a user namespace only"), ("--map-user=1000", "not root")],
)
def test_only_the_hosts_root_may_use_it(user: str, who: str) -> None:
    result = subprocess.run(
        ["unshare", "--user", user, sys.executable, "-c", _CHECK], capture_output=True, text=True
    )
    assert result.stdout == f"`jail = true`: the jailer needs the host's root, and this is {who}\n"
