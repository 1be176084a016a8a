"""QEMU machines are saved, with disks and without, and come back as often as one likes."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from attest.disk import qemu_img as disk
from attest.guest.agent.channel import AgentChannel
from attest.guest.channel import Command
from attest.guest.console import Console
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.net.cell import Cell
from attest.support.procfs import descendants
from attest.support.scratch import Scratch
from attest.vmm.base import MachineSpec, Saved, SaveError, saved_in
from attest.vmm.qemu import migration
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.vmm import Qemu

MEMORY = 96
POOL = Path("/proc/sys/vm/nr_hugepages")
FREE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")


def agent_socket(vmm: Qemu) -> socket.socket:
    sockets: list[socket.socket] = []
    vmm.dial(lambda sock, _: sockets.append(sock), 1, dead=str)
    return sockets[0]


class Bench:
    """Starts QEMU machines of one type, and ends them all."""

    def __init__(self, cell: Cell, machine: str = "microvm") -> None:
        self.path = cell.scratch
        self._cell = cell
        self._machine = machine
        self._image = ImageStore().build(load_recipe("tiny"))
        self._running: list[tuple[Qemu, AgentChannel, Console]] = []

    def start(self, **what: Any) -> tuple[Qemu, AgentChannel]:
        """Start a machine that is what a `MachineSpec` says; its agent may not answer yet."""
        name = f"machine{len(self._running)}"
        spec = MachineSpec(
            name=name, image=self._image, vcpus=1, machine=self._machine, accelerator="tcg",
            directory=self.path / name, **{"memory": MEMORY, **what},
        )  # fmt: skip
        spec.directory.mkdir()
        vmm = Qemu(
            spec, find_qemu(), enter=self._cell.enter, on_exit=print, on_event=lambda *_: None
        )
        console = Console(
            name, vmm.console, spec.directory / "console", on_line=print, on_alarm=print
        )
        channel = AgentChannel(name, agent_socket(vmm))
        self._running.append((vmm, channel, console))
        return vmm, channel

    def up(self, **what: Any) -> tuple[Qemu, AgentChannel]:
        """Start a machine whose agent answers."""
        vmm, channel = self.start(**what)
        channel.connect(120)
        return vmm, channel

    def directory(self, name: str) -> Path:
        """A new directory."""
        path = self.path / name
        path.mkdir()
        return path

    def seal(self, directory: Path) -> None:
        """Let no machine write to a directory."""
        self._cell.run(["mount", "--bind", str(directory), str(directory)])
        self._cell.run(["mount", "-o", "remount,bind,ro", str(directory)])

    def overlay(self, *frozen: Path) -> tuple[Path, ...]:
        """A new overlay of each of some disks."""
        number = len(list(self.path.glob("overlay*")))
        overlays = tuple(self.path / f"overlay{number + index}" for index in range(len(frozen)))
        for path, backing in zip(overlays, frozen, strict=True):
            disk.create(path, backing=backing)
        return overlays

    def close(self) -> None:
        for vmm, channel, console in self._running:
            vmm.kill()
            channel.close()
            console.join()


@pytest.fixture
def cell() -> Iterator[Cell]:
    with closing(Scratch()) as scratch, closing(Cell(scratch.path)) as cell:
        scratch.create()
        yield cell


@pytest.fixture
def bench(cell: Cell) -> Iterator[Bench]:
    with closing(Bench(cell)) as bench:
        yield bench


@pytest.fixture(params=["microvm", "q35"])
def each(cell: Cell, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench of each machine type."""
    with closing(Bench(cell, request.param)) as bench:
        yield bench


def run(channel: AgentChannel, command: str) -> str:
    done = channel.run(Command(f"set -e; {command}"))
    assert done.status == 0, done
    return done.stdout.decode().strip()


def device(index: int) -> str:
    return f"/dev/$(basename $(dirname $(grep -lx disk{index} /sys/block/*/serial)))"


def write(channel: AgentChannel, text: str, index: int = 0) -> None:
    """Write to a disk, and flush it."""
    run(channel, f"echo {text} | dd of={device(index)} conv=sync,fsync")


def read(channel: AgentChannel, index: int = 0) -> str:
    """Read from a disk, past the guest's page cache."""
    return run(channel, f"dd if={device(index)} bs=512 count=1 iflag=direct | tr -d '\\0'")


def test_clones_go_on_where_a_saved_machine_stood(each: Bench) -> None:
    place = each.directory("saved")
    disk.create(place / "disk", 8)
    source, channel = each.up(memory_file=place / "memory", disks=[place / "disk"])
    run(channel, "echo remembered > /note")
    write(channel, "remembered")
    assert source.save(place) == saved_in(place)
    saved = saved_in(place, (place / "disk",))
    source.kill()
    if find_qemu().version >= (8, 2):  # before, a memory file had to be writable
        each.seal(place)
    for _ in range(2):
        _, channel = each.up(saved=saved, disks=each.overlay(*saved.disks))
        assert run(channel, "cat /note; echo spoilt > /note") == "remembered"
        assert read(channel) == "remembered"
        write(channel, "spoilt")
        assert read(channel) == "spoilt"


def test_a_machine_goes_on_after_it_was_saved_whole(each: Bench) -> None:
    path = each.path
    disk.create(path / "disk", 8)
    machine, channel = each.up(disks=[path / "disk"])
    run(channel, "echo before > /note")
    write(channel, "before")
    machine.pause()
    machine.fork_disks([path / "fork"])
    before = machine.save_running(each.directory("before"))
    frozen = hashlib.sha256((path / "disk").read_bytes()).digest()
    machine.resume()
    run(channel, "echo after > /note")
    write(channel, "after")
    assert read(channel) == "after"
    after = machine.save_running(
        each.directory("after")
    )  # of a machine that runs; and the disks are forked later
    machine.fork_disks([path / "another"])
    machine.resume()
    write(channel, "later")
    assert read(channel) == "later"

    assert (before.memory, after.memory) == (None, None)
    after = replace(after, disks=(path / "fork",))
    clone, channel = each.start(saved=after, disks=each.overlay(*after.disks), paused=True)
    assert clone.execute("query-status")["status"] == "paused"
    clone.resume()
    channel.connect(120)
    assert (run(channel, "cat /note"), read(channel)) == ("after", "after")

    # A whole stream is made one with a memory file, which clones can map.
    before = replace(before, disks=(path / "disk",))
    place = each.directory("baked")
    oven, _ = each.start(
        saved=before, memory_file=place / "memory", disks=each.overlay(*before.disks), paused=True
    )
    baked = replace(oven.save(place), disks=before.disks)
    assert baked.memory is not None
    oven.kill()
    for _ in range(2):
        _, channel = each.up(saved=baked, disks=each.overlay(*baked.disks))
        assert (run(channel, "cat /note; echo spoilt > /note"), read(channel)) == (
            "before", "before",
        )  # fmt: skip
        write(channel, "spoilt")
    assert hashlib.sha256((path / "disk").read_bytes()).digest() == frozen


def test_what_a_guest_flushed_outlives_its_vmm(bench: Bench) -> None:
    image = bench.path / "image"
    image.write_bytes(b"of the image\n".ljust(1 << 20, b"\0"))
    disks = [bench.path / "disk0", bench.path / "disk1"]
    disk.create(disks[0], 8)
    disk.create(disks[1], backing=image)
    machine, channel = bench.up(disks=disks)
    assert (read(channel, 0), read(channel, 1)) == ("", "of the image")
    for index in range(2):
        write(channel, f"flushed {index}", index)
    machine.kill()
    _, channel = bench.up(disks=disks)
    assert (read(channel, 0), read(channel, 1)) == ("flushed 0", "flushed 1")


def test_what_cannot_be_saved_is_refused(bench: Bench) -> None:
    disk.create(bench.path / "disk", 8)
    machine, _ = bench.start(disks=[bench.path / "disk"])
    with pytest.raises(ValueError, match="no memory file"):
        machine.save(bench.directory("mapped"))
    with pytest.raises(ValueError):
        machine.fork_disks([])
    machine.save_running(bench.directory("first"))
    with pytest.raises(SaveError, match="paused due to previous migration"):
        machine.save_running(bench.directory("second"))
    assert not (bench.path / "second/state").exists()
    machine.kill()
    with pytest.raises(SaveError):
        machine.save_running(bench.directory("third"))
    assert not (bench.path / "third/state").exists()


@pytest.mark.parametrize("mapped", [True, False])
def test_a_damaged_state_is_refused(bench: Bench, mapped: bool) -> None:
    memory = bench.path / "memory"
    memory.touch()
    (bench.path / "state").write_bytes(b"nonsense")
    with pytest.raises(SaveError, match=r"(?i)not a migration stream"):
        bench.start(saved=Saved(memory if mapped else None, bench.path / "state"))


def test_a_machine_that_is_not_loaded_has_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its taps are free for the one that boots in its place."""
    started: set[int] = set()

    def refuse(*_: object, **__: object) -> None:
        started.update(descendants(os.getpid()))
        raise SaveError("refused")

    monkeypatch.setattr(migration, "load", refuse)
    before = set(descendants(os.getpid()))
    with pytest.raises(SaveError, match="refused"):
        bench.start(saved=Saved(None, bench.path / "state"))
    assert started - before
    assert not (started - before) & set(descendants(os.getpid()))


def test_prefault_allocates_all_memory_before_the_start(bench: Bench) -> None:
    for prefault in (False, True):
        file = bench.path / f"memory-{prefault}"
        machine, _ = bench.start(memory_file=file, prefault=prefault)
        machine.pause()
        assert (file.stat().st_blocks * 512 >= MEMORY << 20) is prefault


@pytest.fixture
def pages() -> Iterator[int]:
    """Huge pages for one machine, beside those that others use; their number."""
    wanted, before = MEMORY // 2, FREE.read_text()
    try:
        POOL.write_text(str(int(POOL.read_text()) + wanted))
    except OSError as error:
        pytest.skip(f"only root can reserve huge pages: {error}")
    if int(FREE.read_text()) - int(before) < wanted:
        pytest.skip("this host's memory is too fragmented for huge pages")
    yield wanted
    POOL.write_text(str(int(POOL.read_text()) - wanted))


def test_memory_of_huge_pages(bench: Bench, pages: int) -> None:
    free = int(FREE.read_text())
    source, channel = bench.up(hugepages=True)
    assert int(FREE.read_text()) == free - pages
    run(channel, "echo remembered > /note")
    saved = source.save_running(bench.directory("stream"))
    source.kill()
    _, channel = bench.up(saved=saved, hugepages=True)
    assert int(FREE.read_text()) == free - pages
    assert run(channel, "cat /note") == "remembered"
    _, channel = bench.up(saved=saved)
    assert run(channel, "cat /note") == "remembered"


def test_huge_pages_that_are_missing_end_the_start(bench: Bench) -> None:
    machine, _ = bench.start(hugepages=True, memory=1 << 20)
    exit = machine.wait(60)
    assert exit is not None
    assert "unable to map backing store" in exit.stderr
