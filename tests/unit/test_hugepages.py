"""Huge pages that are missing are told before a start, with the command that reserves them."""

from pathlib import Path

import pytest

from attest.errors import HostError
from attest.host.hugepages import check_hugepages


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool of 100 pages: 70 are free, of which 20 are claimed already."""
    for count, value in {"nr": 100, "free": 70, "resv": 20}.items():
        (tmp_path / f"{count}_hugepages").write_text(f"{value}\n")
    return tmp_path


@pytest.mark.parametrize("mib", [0, 1, 100])
def test_enough(pool: Path, mib: int) -> None:
    check_hugepages(mib, pool=pool)


@pytest.mark.parametrize(("mib", "needed", "total"), [(101, 51, 101), (1024, 512, 562)])
def test_too_few(pool: Path, mib: int, needed: int, total: int) -> None:
    with pytest.raises(HostError) as error:
        check_hugepages(mib, pool=pool)
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


def check_without_sys(directory: Path, memory: str, mib: int) -> None:
    (directory / "meminfo").write_text(memory)
    check_hugepages(mib, pool=directory / "missing", meminfo=directory / "meminfo")


def test_without_sys_as_in_a_sandbox(tmp_path: Path) -> None:
    check_without_sys(tmp_path, MEMORY.format(size=2048), 100)
    with pytest.raises(HostError, match="51 pages of 2 MiB are needed, 50 are free") as error:
        check_without_sys(tmp_path, MEMORY.format(size=2048), 101)
    assert error.value.hint == "as root: sysctl -w vm.nr_hugepages=101"


@pytest.mark.parametrize("memory", [MEMORY.format(size=1 << 20), "MemTotal: 1000 kB\n"])
def test_a_kernel_without(memory: str, tmp_path: Path) -> None:
    check_without_sys(tmp_path, memory, 0)
    with pytest.raises(HostError, match="no 2 MiB pages"):
        check_without_sys(tmp_path, memory, 2)
