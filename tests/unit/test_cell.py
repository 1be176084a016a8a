"""The cell: real namespaces, real bridges, and nothing of them left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from attest.errors import HostError
from attest.net.bridge import Attachment, cell_with_bridges, join_bridges
from attest.net.cell import Cell
from attest.support.procfs import children
from attest.support.scratch import Scratch
from attest.vmm.base import VmmExit
from attest.vmm.process import WatchedProcess


@pytest.fixture
def cell() -> Iterator[Cell]:
    scratch = Scratch()
    cell = Cell(scratch.path)
    scratch.create()
    yield cell
    cell.close()
    scratch.close()


def test_a_cell_has_a_network_of_its_own(cell: Cell) -> None:
    outside = os.readlink("/proc/self/ns/net")
    assert cell.run(["readlink", "/proc/self/ns/net"]).strip() != outside
    assert "LOOPBACK,UP" in cell.run(["ip", "link", "show", "lo"])


def test_a_cell_is_made_with_bridges_and_taps(tmp_path: Path) -> None:
    places = [Attachment(1, 1), Attachment(1, 2), Attachment(7, 2)]
    with closing(cell_with_bridges(tmp_path, places)) as cell:
        links = cell.run(["ip", "-o", "link"])
        missing = [name for name in ("vlan1", "vlan7", "t1v1", "t2v1", "t2v7") if name not in links]
        assert missing == []
        assert "master vlan7" in cell.run(["ip", "-o", "link", "show", "t2v7"])


def test_an_interface_that_exists_is_an_error_that_names_it(tmp_path: Path) -> None:
    with (
        closing(cell_with_bridges(tmp_path, [Attachment(1, 1)])) as cell,
        pytest.raises(HostError, match=r"make a tap interface: .*busy"),
    ):
        join_bridges(cell, [Attachment(1, 1)])


def test_a_network_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    too_long = 10**12
    places = [Attachment(1, 1), Attachment(too_long, 1)]
    with (
        closing(cell_with_bridges(tmp_path, places)) as cell,
        pytest.raises(HostError, match=rf"a network bridge: `ip link add vlan{too_long} "),
    ):
        cell.ready()


def test_a_cell_that_is_closed_before_it_is_there_leaves_nothing() -> None:
    scratch = Scratch()
    cell = cell_with_bridges(scratch.path, [Attachment(1, 1)])
    scratch.create()
    cell.close()
    assert not scratch.path.exists()
    assert users_of(scratch.path) == []
    scratch.close()


def users_of(scratch: Path) -> list[str]:
    """The command lines of all processes that name a directory."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines.append((process / "cmdline").read_text().replace("\0", " "))
    return [line for line in lines if str(scratch) in line]


def test_closing_ends_what_runs_inside_and_removes_the_scratch_directory() -> None:
    scratch = Scratch()
    cell = Cell(scratch.path)
    scratch.create()
    (scratch.path / "file").write_text("x")
    inside = subprocess.Popen(cell.enter(["sleep", "1000"]))
    cell.close()
    assert inside.wait(10) != 0
    assert not scratch.path.exists()
    scratch.close()


_DRIVER = """
import subprocess, sys, time
from attest.net.bridge import Attachment, cell_with_bridges
from attest.support.scratch import Scratch
scratch = Scratch()
cell = cell_with_bridges(scratch.path, [Attachment(1, 1)])
scratch.create()
inside = cell.enter(["sh", "-c", "sleep 1000 & echo up; wait"])
sleeper = subprocess.Popen(inside, stdout=subprocess.PIPE)
sleeper.stdout.readline()
print(scratch.path, cell.pid, flush=True)
time.sleep(1000)
"""


def test_a_killed_driver_leaves_nothing() -> None:
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    scratch, pid = driver.stdout.readline().split()
    gone = os.pidfd_open(int(pid))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    # The descriptor of PID 1 becomes readable when the whole namespace has ended.
    readable, _, _ = select.select([gone], [], [], 20)
    os.close(gone)
    assert readable, "the cell outlived its driver"
    assert not Path(scratch).exists()


_KILLED_EARLY = """
import os, signal
from attest.net.bridge import Attachment, cell_with_bridges
from attest.support.scratch import Scratch
scratch = Scratch()
cell = cell_with_bridges(scratch.path, [Attachment(1, 1)])
scratch.create()
print(scratch.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_driver_that_is_killed_while_its_cell_is_made_leaves_nothing() -> None:
    driver = subprocess.run(
        [sys.executable, "-c", _KILLED_EARLY], stdout=subprocess.PIPE, text=True, check=False
    )
    scratch = Path(driver.stdout.strip())
    _await(lambda: not scratch.exists() and not users_of(scratch))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of other users")
def test_a_killed_driver_leaves_nothing_of_other_users() -> None:
    alien = "directory = scratch.path / 'alien'\ndirectory.mkdir(0o700)\n"
    alien += "(directory / 'file').touch()\nimport os; os.chown(directory, 12345, 12345)\n"
    before, after = _DRIVER.split("inside =", 1)
    driver = subprocess.Popen(
        [sys.executable, "-c", f"{before}{alien}inside ={after}"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert driver.stdout is not None
    scratch, _ = driver.stdout.readline().split()
    driver.kill()
    driver.wait()
    driver.stdout.close()
    _await(lambda: not Path(scratch).exists())


def test_a_killed_process_outside_takes_the_one_inside_with_it(cell: Cell) -> None:
    process = subprocess.Popen(
        cell.enter(["sh", "-c", "echo up; exec sleep 1234"]), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    # Its standard output ends when the last process that could write it has gone.
    assert process.stdout.read() == b""
    process.stdout.close()


def test_a_process_can_be_ended_at_any_moment_of_its_start(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is found when the one inside is made just after the listing.
    monkeypatch.setattr("attest.vmm.process.descendants", lambda _: [])
    for moment in range(40):
        reading, writing = os.pipe()
        process = WatchedProcess(
            cell.enter(["sleep", "1234"]),
            pass_fds=(), stdout=writing, stderr=tmp_path / "log", on_exit=lambda _: None,
        )  # fmt: skip
        os.close(writing)
        ready, _, _ = select.select([reading], [], [], moment / 5000)
        assert not ready
        process.kill()
        ready, _, _ = select.select([reading], [], [], 20)
        os.close(reading)
        assert ready, "the process inside still runs"


def test_ending_a_watched_process_ends_the_one_inside(cell: Cell, tmp_path: Path) -> None:
    ends: list[VmmExit] = []
    process = WatchedProcess(
        cell.enter(["sleep", "1234"]), pass_fds=(), stderr=tmp_path / "log", on_exit=ends.append
    )
    process.kill()
    process.kill()
    assert [end.status for end in ends] == [-signal.SIGKILL]
    assert "1234" not in cell.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"])


def test_a_watched_process_that_was_stopped_can_be_ended(cell: Cell, tmp_path: Path) -> None:
    process = WatchedProcess(
        cell.enter(["sh", "-c", "echo up >&2; exec sleep 1234"]),
        pass_fds=(), stderr=tmp_path / "log", on_exit=lambda _: None,
    )  # fmt: skip
    _await(lambda: (tmp_path / "log").read_text() == "up\n")
    (inside,) = children(process.pid)
    os.kill(inside, signal.SIGSTOP)
    _await(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T")
    process.kill(wait=False)
    assert process.wait(30) is not None


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
