"""What is told of missing devices outside of Nix's sandbox, and where a build has its cache.

What is told inside, `tests/nix` has from real builds.
"""

from pathlib import Path

import pytest

from attest.cache import cache_dir
from attest.host.nix_build import in_sandbox, remedy


def test_a_shell_of_nix_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the build's variables, and the host's devices."""
    monkeypatch.setenv("NIX_BUILD_TOP", "/tmp/nix-shell")
    assert not in_sandbox()
    assert remedy(Path("/dev/none"), "as root: mknod") == "as root: mknod"


@pytest.mark.parametrize(
    ("home", "cache"),
    [
        ("/homeless-shelter", "/build/.cache/attest"),
        ("/build/home", "/build/home/.cache/attest"),
    ],
)
def test_a_build_has_a_cache_though_it_has_no_home(
    home: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("NIX_BUILD_TOP", "/build")
    monkeypatch.setenv("HOME", home)
    assert cache_dir() == Path(cache)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_dir() == Path("/cache/attest")
