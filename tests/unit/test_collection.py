"""All tests can be had at once, and those with KVM say so where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_WITHOUT_KVM = """
mkdir "$1"
touch "$1/null"
mount --bind /dev/null "$1/null"
mount --rbind "$1" /dev
shift
exec "$@"
"""


def pytest_here(*arguments: str, inside: tuple[str, ...] = (), **more: str) -> tuple[int, str]:
    """Its exit code and what it printed; ``inside`` is a command that runs it."""
    environment = {name: os.environ[name] for name in os.environ if name != "ATTEST_KVM_SEEN"}
    result = subprocess.run(
        [*inside, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, env=environment | more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return result.returncode, result.stdout


def test_all_folders_are_collected_together() -> None:
    status, said = pytest_here("--collect-only", "-q", "tests")
    assert status == 0, said
    found = {line.partition("::")[0] for line in said.splitlines() if "::" in line}
    there = {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/*/test_*.py")}
    optional = {"tests/nix/test_nixpkgs.py", "tests/nix/test_nixpkgs_packages.py"}
    assert there - optional <= found


def test_tests_with_kvm_say_what_they_lack(tmp_path: Path) -> None:
    without = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", _WITHOUT_KVM, "sh",
               str(tmp_path / "dev"))  # fmt: skip
    status, said = pytest_here("tests/kvm/test_probe.py", inside=without)
    assert status == 0, said
    assert "needs KVM: make test-kvm (/dev/kvm does not exist)" in said
    status, said = pytest_here("tests/kvm/test_probe.py", inside=without, ATTEST_KVM_SEEN="1")
    assert status == 1, said
