"""The page-fault handler as the driver starts it, in a cell with its guest."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from attest.net.cell import Cell
from attest.support.procfs import children
from attest.support.scratch import Scratch
from attest.vmm.firecracker.uffd import UffdHandler
from tests.unit import uffd_peer
from tests.unit.uffd_peer import SMALL, Peer

LIMIT = 60.0


@pytest.fixture
def cell() -> Iterator[Cell]:
    scratch = Scratch()
    cell = Cell(scratch.path)
    scratch.create()
    yield cell
    cell.close()
    scratch.close()


@pytest.fixture
def peer(cell: Cell) -> Iterator[Peer]:
    with Peer(cell.enter) as peer:
        yield peer


class Clone:
    """A clone's directory, its memory and its handler."""

    def __init__(self, cell: Cell) -> None:
        # Firecracker is told the name in its working directory: that may have any path.
        directory = cell.scratch / ("x" * 120)
        directory.mkdir()
        self.memory = directory / "memory"
        self.memory.write_bytes(os.urandom(16 * SMALL))
        self.failed = threading.Event()
        self.handler = UffdHandler(
            self.memory,
            directory / "uffd",
            enter=cell.enter,
            log=cell.scratch / "uffd.log",
            on_failure=self.failed.set,
        )
        # The peer's name for it, which is short.
        self.address = cell.scratch / "uffd"
        self.address.symlink_to(directory / "uffd")

    @property
    def guest(self) -> dict[str, object]:
        return {"path": str(self.address), "file": str(self.memory), "page_size": SMALL}


@pytest.fixture
def clone(cell: Cell) -> Iterator[Clone]:
    clone = Clone(cell)
    yield clone
    clone.handler.end()


def test_a_clone_has_its_memory(clone: Clone, peer: Peer) -> None:
    assert peer.run(uffd_peer.reads, **clone.guest) == 0
    assert clone.handler.end() == ""
    assert clone.handler.end() == ""
    assert not clone.failed.is_set()


def test_a_handler_that_fails_ends_its_clone_and_says_why(clone: Clone, peer: Peer) -> None:
    assert peer.run(uffd_peer.loses_its_file, **clone.guest) == -signal.SIGKILL
    assert clone.failed.wait(LIMIT)
    why = clone.handler.end()
    assert why.startswith("the page-fault handler ended with exit code 1: attest-uffd: reading")


def test_a_handler_that_is_killed_is_a_failure(clone: Clone) -> None:
    (started,) = [pid for pid in children(os.getpid()) if b"attest-uffd" in cmdline(pid)]
    os.kill(started, signal.SIGKILL)
    assert clone.failed.wait(LIMIT)
    assert clone.handler.end() == "the page-fault handler ended with signal 9"


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_handler_goes_with_the_cell(cell: Cell) -> None:
    clone = Clone(cell)
    cell.close()
    assert clone.failed.wait(LIMIT)
