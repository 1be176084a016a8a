"""VMMs that do not start, or hang: what is told, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from attest.image.model import Image
from attest.support.procfs import children
from attest.vmm import process
from attest.vmm.base import MachineSpec, Saved, SaveError, VmmExit
from attest.vmm.cloud_hypervisor.binary import CloudHypervisorBinary
from attest.vmm.cloud_hypervisor.vmm import CloudHypervisor
from attest.vmm.firecracker.binary import FirecrackerBinary
from attest.vmm.firecracker.vmm import Firecracker
from attest.vmm.process import WatchedProcess
from attest.vmm.qemu import qmp
from attest.vmm.qemu.binary import QemuBinary
from attest.vmm.qemu.monitored import REPLY_LIMIT
from attest.vmm.qemu.start_script import ScriptSpec, StartScript
from attest.vmm.qemu.vmm import Qemu
from tests.process_end import End
from tests.unit.descriptors import open_descriptors, room_for

_MISSING = Path("/nonexistent/program")
_FIRECRACKER = FirecrackerBinary(_MISSING, (1, 16, 1), "10.0.0")
_CLOUD_HYPERVISOR = CloudHypervisorBinary(_MISSING, (53, 0))

Start = Callable[[Callable[[Sequence[str]], list[str]]], Any]


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    for name in ("kernel", "vmlinux", "initrd", "state", "memory"):
        (tmp_path / name).touch()
    image = Image(
        digest="0" * 64, name="none", arch="x86_64", path=tmp_path, root=None,
        kernel=tmp_path / "kernel", vmlinux=tmp_path / "vmlinux", initrd=tmp_path / "initrd",
        cmdline=(), init="agent",
    )  # fmt: skip
    directory = tmp_path / "machine"
    directory.mkdir()
    return MachineSpec(
        name="web", image=image, memory=64, vcpus=1, machine="microvm", accelerator="tcg",
        directory=directory,
    )  # fmt: skip


@pytest.fixture
def saved(spec: MachineSpec, tmp_path: Path) -> MachineSpec:
    """One that continues what was saved."""
    return replace(spec, saved=Saved(None, tmp_path / "state"))


@pytest.fixture
def binary(tmp_path: Path) -> QemuBinary:
    """A stand-in for QEMU."""
    path = tmp_path / "qemu"
    script = Path(__file__).with_name("fake_qemu.py")
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {script} "$@"\n')
    path.chmod(0o755)
    return QemuBinary(path, (10, 0, 2))


@pytest.fixture
def start(
    binary: QemuBinary, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Qemu, End]]]:
    """Starts a stand-in of some mode; all end with the test."""
    started: list[Qemu] = []

    def make(mode: str, spec: MachineSpec, reply_limit: float = REPLY_LIMIT) -> tuple[Qemu, End]:
        monkeypatch.setenv("FAKE_QEMU", mode)
        end = End()
        vmm = Qemu(
            spec, binary, enter=list, on_exit=end, on_event=lambda *_: None, reply_limit=reply_limit
        )  # fmt: skip
        started.append(vmm)
        return vmm, end

    yield make
    for vmm in started:
        vmm.kill()
        vmm.console.close()


StartQemu = Callable[..., tuple[Qemu, End]]


# What is told


def test_a_command_without_an_answer_is_named(start: StartQemu, spec: MachineSpec) -> None:
    vmm, _ = start("mute", spec, reply_limit=0.5)
    with pytest.raises(qmp.QMPError) as caught:
        vmm.execute("query-status")
    assert str(caught.value) == "QEMU did not answer `query-status` in 0.5 s; it still runs"


def test_a_start_does_not_wait_for_the_greeting(start: StartQemu, spec: MachineSpec) -> None:
    """Whether the machine comes up in time is for the limit of its start."""
    vmm, _ = start("silent", replace(spec, allow_reboot=True), reply_limit=0.5)
    assert vmm.exit is None
    with pytest.raises(qmp.QMPError, match=r"did not answer `stop` in 0\.5 s; it still runs"):
        vmm.pause()


def test_a_load_without_an_answer_says_so(start: StartQemu, saved: MachineSpec) -> None:
    text = "QEMU did not answer `migrate-set-capabilities` in 0.5 s; it still runs"
    with pytest.raises(SaveError) as caught:
        start("silent", saved, reply_limit=0.5)
    assert str(caught.value) == text


def test_a_load_into_one_that_has_ended_says_how(start: StartQemu, saved: MachineSpec) -> None:
    with pytest.raises(SaveError, match="QEMU ended with exit code 1: no such machine"):
        start("gone", saved)


def test_one_that_is_ended_before_it_greets(start: StartQemu, spec: MachineSpec) -> None:
    vmm, end = start("silent", replace(spec, allow_reboot=True))
    vmm.kill()
    assert end.wait().expected
    with pytest.raises(qmp.QMPError, match=r"before QEMU had greeted|QEMU has not greeted: \w"):
        vmm.pause()


def test_work_that_nobody_waits_for_is_cancelled() -> None:
    cancelled = threading.Event()
    main = threading.get_ident()

    class Ended(BaseException):
        pass

    def end(*_: object) -> None:
        raise Ended

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, signal.pthread_kill, main, signal.SIGUSR1)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(Ended):
            qmp._wait(work(), 1000)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert cancelled.wait(30)


# An end is told


def test_an_end_is_told_whatever_becomes_of_the_monitor(
    start: StartQemu, spec: MachineSpec
) -> None:
    _, end = start("flood", replace(spec, allow_reboot=True))
    end.wait()


def test_an_end_is_told_though_more_of_it_cannot_be_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[type[BaseException] | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_type))

    def complete(exit: VmmExit) -> VmmExit:
        raise PermissionError

    end = End()
    watched = WatchedProcess(
        ["sh", "-c", "echo why >&2; exit 3"],
        pass_fds=(), stderr=tmp_path / "log", on_exit=end, complete=complete,
    )  # fmt: skip
    assert end.wait() == VmmExit(3, False, "why\n")
    assert watched.wait(30) == end.told[0]
    watched.kill()
    assert failures == [PermissionError]  # it is no secret


# Nothing is left


@pytest.fixture(params=["qemu", "old qemu", "start script", "firecracker", "cloud hypervisor"])
def kind(request: pytest.FixtureRequest, spec: MachineSpec, tmp_path: Path) -> Start:
    """Starts a VMM of some kind."""
    kvm = replace(spec, accelerator="kvm")
    script = ScriptSpec(
        name="web", command="true", state_dir=tmp_path, shared_dir=tmp_path, log=tmp_path / "log"
    )
    qemu, machine = {
        "qemu": (Qemu, (spec, QemuBinary(_MISSING, (10, 0, 2)))),
        "old qemu": (Qemu, (spec, QemuBinary(_MISSING, (7, 2, 0)))),
        "start script": (StartScript, (script,)),
        "firecracker": (Firecracker, (kvm, _FIRECRACKER)),
        "cloud hypervisor": (CloudHypervisor, (kvm, _CLOUD_HYPERVISOR)),
    }[request.param]

    def start(enter: Callable[[Sequence[str]], list[str]]) -> Any:
        return qemu(*machine, enter=enter, on_exit=lambda _: None, on_event=lambda *_: None)  # type: ignore[operator]

    return start


def test_of_a_program_that_cannot_be_started(kind: Start, spec: MachineSpec) -> None:
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        kind(lambda _: [str(_MISSING)])
    _settle()
    assert open_descriptors() == before
    assert [path for path in spec.directory.iterdir() if path.is_dir()] == []


def test_of_a_start_that_runs_out_of_descriptors(kind: Start) -> None:
    failed = 0
    before = open_descriptors()
    for count in range(9):
        try:
            with room_for(count):
                kind(lambda _: [str(_MISSING)])
        except OSError:
            failed += 1
        _settle()
        assert open_descriptors() == before, count
    assert failed == 9


def _settle() -> None:
    """Threads that read what has ended, see that in a moment."""
    for thread in threading.enumerate():
        if thread.name.startswith("events "):
            thread.join(30)


@pytest.mark.parametrize("mode", ["silent", "mute", "gone", "refuse"])
def test_of_a_load_that_fails(
    start: StartQemu, saved: MachineSpec, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[WatchedProcess] = []

    class Archive(WatchedProcess):
        def __init__(self, *args: Any, **options: Any) -> None:
            processes.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr("attest.vmm.qemu.vmm.WatchedProcess", Archive)
    qmp._loop()
    before = open_descriptors()
    with pytest.raises(SaveError):
        start(mode, saved, reply_limit=0.5)
    (process,) = processes
    process.kill()  # waits for the thread that watches it
    assert not Path(f"/proc/{process.pid}").exists()
    assert open_descriptors() == before


def test_of_one_that_is_abandoned(start: StartQemu, spec: MachineSpec) -> None:
    qmp._loop()
    before = open_descriptors()
    vmm, end = start("mute", replace(spec, allow_reboot=True))
    vmm.abandon()
    end.wait()
    vmm._process.kill()
    assert open_descriptors() == before


def test_of_a_process_that_cannot_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on threads is met as it comes: the program runs by then."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before, others = open_descriptors(), set(children(os.getpid()))
    monkeypatch.setattr(process.threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        WatchedProcess(
            ["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"],
            pass_fds=(), stderr=tmp_path / "log", on_exit=lambda _: None,
        )  # fmt: skip
    assert open_descriptors() == before
    assert set(children(os.getpid())) <= others
