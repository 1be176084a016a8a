"""A QEMU machine that was saved comes back, as often as one likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from attest.guest.agent_channel import AgentChannel
from attest.guest.console import Console
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.net.cell import Cell
from attest.scratch import Scratch
from attest.vmm.base import MachineSpec, Saved
from attest.vmm.migration import MigrationError
from attest.vmm.qemu import Qemu


class Bench:
    """Starts QEMU machines, and ends them all."""

    def __init__(self, cell: Cell, directory: Path) -> None:
        self._cell = cell
        self._directory = directory
        self._running: list[tuple[Qemu, AgentChannel, Console]] = []

    def start(self, spec: MachineSpec) -> tuple[Qemu, AgentChannel]:
        spec.directory.mkdir()
        vmm = Qemu(spec, enter=self._cell.enter, on_exit=print, on_event=lambda *_: None)
        console = Console(
            spec.name, vmm.console, spec.directory / "console", on_line=print, on_alarm=print
        )
        channel = AgentChannel(spec.name, vmm.agent)
        self._running.append((vmm, channel, console))
        channel.connect(120)
        return vmm, channel

    def close(self) -> None:
        for vmm, channel, console in self._running:
            vmm.kill()
            channel.close()
            console.join()


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with closing(Scratch()) as scratch:
        yield scratch


@pytest.fixture
def bench(scratch: Scratch) -> Iterator[Bench]:
    with closing(Cell(scratch.path)) as cell, closing(Bench(cell, scratch.path)) as bench:
        yield bench


@pytest.mark.parametrize("machine", ["microvm", "q35"])
def test_clones_of_a_saved_machine_go_on_where_it_stood(
    scratch: Scratch, bench: Bench, machine: str
) -> None:
    spec = MachineSpec(
        name="source", image=ImageStore().build(load_recipe("tiny")), memory=128, vcpus=1,
        machine=machine, accelerator="tcg", directory=scratch.path / "source",
        memory_file=scratch.path / "memory",
    )  # fmt: skip
    saved = Saved(scratch.path / "memory", scratch.path / "state")
    source, channel = bench.start(spec)
    channel.run("echo remembered > /note")
    source.save(saved.state)
    source.kill()
    for name in ("one", "two"):
        clone = replace(
            spec, name=name, directory=scratch.path / name, memory_file=None, saved=saved
        )
        _, channel = bench.start(clone)
        assert channel.run("cat /note; echo spoilt > /note").stdout == b"remembered\n"


def test_a_damaged_state_is_refused(scratch: Scratch, bench: Bench) -> None:
    (scratch.path / "memory").touch()
    (scratch.path / "state").write_bytes(b"nonsense")
    spec = MachineSpec(
        name="clone", image=ImageStore().build(load_recipe("tiny")), memory=128, vcpus=1,
        machine="microvm", accelerator="tcg", directory=scratch.path / "clone",
        saved=Saved(scratch.path / "memory", scratch.path / "state"),
    )  # fmt: skip
    with pytest.raises(MigrationError):
        bench.start(spec)
