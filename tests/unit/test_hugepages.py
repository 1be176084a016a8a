"""Huge pages that are missing are told before a start, with the command that reserves them."""

from pathlib import Path

import pytest

from attest.errors import HostError
from attest.host import hugepages
from attest.host.hugepages import check_hugepages


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool of 100 pages: 70 are free, of which 20 are claimed already."""
    for count, value in {"nr": 100, "free": 70, "resv": 20}.items():
        (tmp_path / f"{count}_hugepages").write_text(f"{value}\n")
    monkeypatch.setattr(hugepages, "_POOL", tmp_path)
    return tmp_path


@pytest.mark.parametrize("mib", [0, 1, 100])
def test_enough(pool: Path, mib: int) -> None:
    check_hugepages(mib)


@pytest.mark.parametrize(("mib", "needed", "total"), [(101, 51, 101), (1024, 512, 562)])
def test_too_few(pool: Path, mib: int, needed: int, total: int) -> None:
    with pytest.raises(HostError) as error:
        check_hugepages(mib)
    assert error.value.message == f"huge pages: {needed} pages of 2 MiB are needed, 50 are free"
    assert error.value.hint == f"as root: sysctl -w vm.nr_hugepages={total}"


def test_the_hosts_own_pool() -> None:
    """No host has four million of them; the kernel's files are where they are looked for."""
    with pytest.raises(HostError, match="4194304 pages"):
        check_hugepages(1 << 23)


MEMORY = """\
MemTotal:        1000 kB
HugePages_Total:     100
HugePages_Free:       70
HugePages_Rsvd:       20
HugePages_Surp:        0
Hugepagesize:       {size} kB
"""


def no_sys(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text(memory)
    monkeypatch.setattr(hugepages, "_POOL", tmp_path / "missing")
    monkeypatch.setattr(hugepages, "_MEMORY", tmp_path / "meminfo")


def test_without_sys_as_in_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_sys(MEMORY.format(size=2048), tmp_path, monkeypatch)
    check_hugepages(100)
    with pytest.raises(HostError, match="51 pages of 2 MiB are needed, 50 are free") as error:
        check_hugepages(101)
    assert error.value.hint == "as root: sysctl -w vm.nr_hugepages=101"


@pytest.mark.parametrize("memory", [MEMORY.format(size=1 << 20), "MemTotal: 1000 kB\n"])
def test_a_kernel_without(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_sys(memory, tmp_path, monkeypatch)
    check_hugepages(0)
    with pytest.raises(HostError, match="no 2 MiB pages"):
        check_hugepages(2)
