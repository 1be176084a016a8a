"""What is told of missing devices outside of Nix's sandbox, and where a build has its cache.

What is told inside, `tests/nix` has from real builds.
"""

from pathlib import Path

import pytest

from attest.support.nix_sandbox import in_build, in_sandbox, remedy
from attest.support.paths import cache_dir


def test_a_shell_of_nix_is_no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_BUILD_TOP", "/tmp/nix-shell")
    monkeypatch.delenv("NIX_LOG_FD", raising=False)
    assert not in_build()


def test_a_build_without_a_sandbox_has_what_the_host_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_BUILD_TOP", "/tmp/nix-build")
    monkeypatch.setenv("NIX_LOG_FD", "2")
    assert in_build()
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
