"""The Firecracker backend's whole life, against a stand-in that holds it to Firecracker's API."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from attest.errors import HostError
from attest.image.model import Image
from attest.net.cell import Cell
from attest.vmm.base import DialError, MachineSpec, Nic, Saved, SaveError
from attest.vmm.firecracker.binary import find_firecracker
from attest.vmm.firecracker.vmm import Firecracker
from attest.vmm.http_api import ApiError
from tests.contract.server import Bench
from tests.contract.starter import Starter, answers, body, greeted, hears, sent

DESCRIPTIONS = "firecracker"

NICS = (Nic("tap1", "52:54:00:12:01:01"), Nic("tap2", "52:54:00:12:02:01"))
BOOT = [
    "PUT /metrics",
    "PUT /machine-config",
    "PUT /boot-source",
    "PUT /drives/root",
    "PUT /network-interfaces/nic0",
    "PUT /network-interfaces/nic1",
    "PUT /vsock",
    "PUT /entropy",
    "PUT /actions",
]


@pytest.fixture(autouse=True)
def standin(
    description: Path,
    bench: Bench,
    program: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    monkeypatch.setenv("ATTEST_STANDIN_DESCRIPTION", str(description))
    monkeypatch.setenv("ATTEST_FIRECRACKER", str(program("standin_firecracker")))
    find_firecracker.cache_clear()
    yield
    find_firecracker.cache_clear()


@pytest.fixture
def start(tmp_path: Path, cell: Cell, image: Image) -> Iterator[Starter]:
    directory = tmp_path / "machine"
    directory.mkdir()
    spec = MachineSpec(
        name="machine", image=image, memory=64, vcpus=2, machine="microvm", accelerator="kvm",
        directory=directory, nics=NICS,
    )  # fmt: skip
    start = Starter(Firecracker, find_firecracker, cell, spec, "firecracker-")
    yield start
    start.close()


@pytest.fixture
def saved(start: Starter, tmp_path: Path) -> Saved:
    (tmp_path / "saved").mkdir()
    run = start()
    saved = run.vmm.save(tmp_path / "saved")
    run.vmm.kill()
    return saved


def shown(start: Starter, name: str) -> Path:
    """The file that the only process has under a name in its working directory."""
    (directory,) = start.spec.directory.glob("firecracker-*")
    return (directory / name).readlink()


# Life


def test_a_boot(start: Starter, bench: Bench, image: Image) -> None:
    run = start()
    assert sent(bench) == BOOT
    assert body(bench, "PUT /machine-config") == {"vcpu_count": 2, "mem_size_mib": 64}
    source = body(bench, "PUT /boot-source")
    assert shown(start, source["kernel_image_path"]) == image.vmlinux
    assert shown(start, source["initrd_path"]) == image.initrd
    assert shown(start, "root") == image.root
    arguments = source["boot_args"].split()
    assert arguments[0] == "console=ttyS0"
    assert arguments[-3:] == ["attest.poweroff=reboot", "attest.root=/dev/vda", "quiet"]
    assert body(bench, "PUT /drives/root") == {
        "drive_id": "root", "is_root_device": False, "is_read_only": True,
        "path_on_host": "root",
    }  # fmt: skip
    assert body(bench, "PUT /network-interfaces/nic1") == {
        "iface_id": "nic1", "host_dev_name": "tap2", "guest_mac": "52:54:00:12:02:01",
    }  # fmt: skip
    assert hears(run, "attest-stage: init")
    assert answers(run)


def test_a_guest_that_is_all_initrd(start: Starter, bench: Bench, image: Image) -> None:
    start(image=replace(image, root=None), nics=())
    assert sent(bench) == [each for each in BOOT if "root" not in each and "nic" not in each]
    assert "attest.root" not in body(bench, "PUT /boot-source")["boot_args"]


def test_a_disk_for_the_root(start: Starter, bench: Bench, image: Image, tmp_path: Path) -> None:
    files = (tmp_path / "one", tmp_path / "two")
    for file in files:
        file.write_bytes(bytes(512))
    start(disks=files, root_size=8192, image=image)
    assert [shown(start, name) for name in ("disk0", "overlay")] == list(files)
    assert body(bench, "PUT /drives/overlay")["is_read_only"] is False
    arguments = body(bench, "PUT /boot-source")["boot_args"].split()
    given = [each for each in arguments if each.startswith("attest.")]
    assert given[1:] == [
        "attest.disks=/dev/vdb", "attest.root=/dev/vda", "attest.overlay=/dev/vdc",
        "attest.root_size=8192",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("root", "devices"), [(True, "/dev/vdb,/dev/vdc"), (False, "/dev/vda,/dev/vdb")]
)
def test_disks(
    start: Starter, bench: Bench, image: Image, tmp_path: Path, root: bool, devices: str
) -> None:
    files = (tmp_path / "one", tmp_path / "two")
    for file in files:
        file.write_bytes(bytes(512))
    start(disks=files, image=image if root else replace(image, root=None))
    assert body(bench, "PUT /drives/disk1") == {
        "drive_id": "disk1", "is_root_device": False, "is_read_only": False,
        "path_on_host": "disk1",  # in a directory of its own, as in that of each clone
    }  # fmt: skip
    assert [shown(start, name) for name in ("disk0", "disk1")] == list(files)
    arguments = body(bench, "PUT /boot-source")["boot_args"]
    assert f" attest.disks={devices} " in arguments


def test_a_balloon(start: Starter, bench: Bench) -> None:
    start(balloon=True)
    assert body(bench, "PUT /balloon") == {
        "amount_mib": 0, "deflate_on_oom": True, "free_page_reporting": True,
    }  # fmt: skip


def test_several_connections(start: Starter) -> None:
    run = start()
    idle: list[socket.socket] = []
    for _ in range(2):
        run.vmm.dial(lambda sock, _: idle.append(sock), 30, dead=str)
    assert answers(run)
    for sock in idle:
        sock.close()


def test_the_console(start: Starter) -> None:
    run = start()
    assert hears(run, "attest-stage: init")
    run.console.send("something\n")
    assert hears(run, "typed: something")


def test_pausing(start: Starter, bench: Bench) -> None:
    run = start()
    run.vmm.resume()
    run.vmm.drain()
    run.vmm.pause()
    run.vmm.pause()
    run.vmm.resume()
    run.vmm.resume()
    assert sent(bench)[len(BOOT) :] == ["GET /", "GET /", "PATCH /vm", "PATCH /vm"]
    assert [each.body["state"] for each in bench.requests[-2:]] == ["Paused", "Resumed"]


def test_the_end(start: Starter) -> None:
    run = start()
    assert run.vmm.exit is None
    assert run.vmm.wait(0) is None
    (directory,) = start.left()
    assert Path(start.spec.directory, directory, "vsock").is_socket()
    run.vmm.kill()
    assert start.left() == []
    assert start.ends[0].told == [run.vmm.exit]
    assert run.vmm.exit is not None
    assert run.vmm.exit.expected
    run.vmm.kill()
    assert len(start.ends[0].told) == 1


def test_a_guest_that_reboots(start: Starter, image: Image) -> None:
    """As it does when it panics; the end of the process is all that tells of it."""
    run = start(image=replace(image, cmdline=("standin.panic",)))
    exit = run.vmm.wait(30)
    assert exit is not None
    assert (exit.status, exit.expected) == (0, True)


def test_saving(start: Starter, bench: Bench, tmp_path: Path) -> None:
    run = start()
    saved = run.vmm.save(tmp_path)
    assert saved == Saved(tmp_path / "memory", tmp_path / "state")
    assert (tmp_path / "memory").stat().st_size == 64 << 20
    assert sent(bench)[len(BOOT) :] == ["PATCH /vm", "PUT /snapshot/create"]
    assert body(bench, "PUT /snapshot/create") == {
        "snapshot_type": "Full", "snapshot_path": "received/state",
        "mem_file_path": "received/memory",
    }  # fmt: skip


def test_saving_one_that_goes_on(start: Starter, bench: Bench, tmp_path: Path) -> None:
    run = start()
    run.vmm.pause()
    assert run.vmm.save_running(tmp_path) == Saved(tmp_path / "memory", tmp_path / "state")
    run.vmm.resume()
    assert sent(bench)[len(BOOT) :] == ["PATCH /vm", "PUT /snapshot/create", "PATCH /vm"]
    assert answers(run)


def test_a_clone(start: Starter, bench: Bench, saved: Saved) -> None:
    before = len(bench.requests)
    nics = (Nic("tap1s", NICS[0].mac), Nic("tap2s", NICS[1].mac))
    run = start(saved=saved, nics=nics)
    assert sent(bench)[before:] == ["PUT /metrics", "PUT /snapshot/load"]
    assert bench.requests[-1].body == {
        "snapshot_path": "state",
        "mem_backend": {"backend_type": "File", "backend_path": "memory"},
        "network_overrides": [
            {"iface_id": "nic0", "host_dev_name": "tap1s"},
            {"iface_id": "nic1", "host_dev_name": "tap2s"},
        ],
        "resume_vm": True,
    }
    run.vmm.resume()  # it runs
    assert len(bench.requests) == before + 2
    assert answers(run)


def test_a_clone_that_waits(start: Starter, bench: Bench, saved: Saved) -> None:
    before = len(bench.requests)
    run = start(saved=saved, paused=True)
    assert bench.requests[-1].body["resume_vm"] is False
    run.vmm.pause()
    run.vmm.resume()
    assert sent(bench)[before:] == ["PUT /metrics", "PUT /snapshot/load", "PATCH /vm"]
    assert bench.requests[-1].body == {"state": "Resumed"}
    assert answers(run)


def test_a_clone_that_is_saved_for_good_leaves_its_original_as_it_was(
    start: Starter, saved: Saved, tmp_path: Path
) -> None:
    assert saved.memory is not None
    before = saved.memory.stat()
    (tmp_path / "own").mkdir()
    run = start(saved=saved, memory_file=tmp_path / "own" / "memory", paused=True)
    run.vmm.resume()
    again = run.vmm.save(tmp_path / "own")
    assert again.memory == tmp_path / "own" / "memory"
    assert saved.memory.stat().st_ctime_ns == before.st_ctime_ns
    assert answers(start(saved=again))


def test_clones_at_once_and_a_clone_of_one(start: Starter, saved: Saved, tmp_path: Path) -> None:
    runs = [start(saved=saved) for _ in range(3)]
    assert all(answers(run) for run in runs)
    (tmp_path / "again").mkdir()
    assert answers(start(saved=runs[0].vmm.save(tmp_path / "again")))


def test_a_directory_with_a_long_name(start: Starter, tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    assert answers(start(directory=directory))


def test_transparent_huge_pages(
    start: Starter, bench: Bench, description: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "Transparent" in description.read_text()
    monkeypatch.setenv("ATTEST_STANDIN_VERSION", "1.17.0" if known else "1.16.1")
    start()
    sent = body(bench, "PUT /machine-config").get("huge_pages")
    assert sent == ("Transparent" if known else None)


def test_its_metrics(start: Starter) -> None:
    start().vmm.kill()
    (end,) = start.ends
    end.wait()
    assert end.told[0].metrics == {"vcpu.exit_io_in": 7}


def test_huge_pages(start: Starter, bench: Bench, tmp_path: Path) -> None:
    run = start(hugepages=True)
    assert body(bench, "PUT /machine-config")["huge_pages"] == "2M"
    saved = run.vmm.save(tmp_path)
    run.vmm.kill()
    clone = start(hugepages=True, saved=saved)
    assert bench.requests[-1].body["mem_backend"] == {
        "backend_type": "Uffd", "backend_path": "uffd",
    }  # fmt: skip
    assert answers(clone)
    clone.vmm.kill()
    assert clone.vmm.exit is not None
    assert "page-fault handler" not in clone.vmm.exit.stderr  # it has ended with its clone


def test_a_clone_whose_memory_was_cut(start: Starter, tmp_path: Path) -> None:
    """The page-fault handler finds it, and ends Firecracker, which would wait for ever."""
    run = start(hugepages=True)
    saved = run.vmm.save(tmp_path)
    run.vmm.kill()
    assert saved.memory is not None
    os.truncate(saved.memory, 4096)
    with contextlib.suppress(SaveError):  # it may have loaded before it is ended
        run = start(hugepages=True, saved=saved)
        assert run.vmm.wait(30) is not None
    start.ends[1].wait()
    (end,) = start.ends[1].told
    assert "the page-fault handler ended with exit code 1: attest-uffd: " in end.stderr
    assert not end.expected


# Failures


@pytest.mark.parametrize("request_line", BOOT)
def test_a_boot_that_is_refused(start: Starter, bench: Bench, request_line: str) -> None:
    method, path = request_line.split()
    bench.fail(method, path, body={"fault_message": "it does not want to"})
    with pytest.raises(ApiError, match=f"^{request_line}: 400: it does not want to$"):
        start()
    assert sent(bench) == BOOT[: BOOT.index(request_line) + 1]


def test_an_end_in_the_middle_of_a_request(start: Starter, bench: Bench) -> None:
    bench.fail("PUT", "/actions", status=148, how="exit")
    with pytest.raises(ApiError) as caught:
        start()
    assert str(caught.value).startswith("PUT /actions: the connection failed: ")
    assert str(caught.value).endswith(
        ": Firecracker ended with exit code 148: [anonymous-instance:main] a word in the log"
    )


def test_a_connection_that_closes(start: Starter, bench: Bench) -> None:
    bench.fail("PUT", "/actions", how="close")
    with pytest.raises(ApiError, match=r"^PUT /actions: the connection failed: "):
        start()
    assert sent(bench) == BOOT  # the start is not tried twice


def test_a_process_that_does_not_come_up(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(tmp_path, monkeypatch, "echo no luck >&2; exit 3")
    with pytest.raises(ApiError, match=r"the VMM ended with exit code 3: no luck$"):
        start()


def test_a_process_that_does_not_listen(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = dataclasses.replace(start, kind=partial(Firecracker, api_limit=0.1))
    instead(tmp_path, monkeypatch, "exec sleep 1000")
    with pytest.raises(ApiError, match=r"no API on its socket in 0\.1 s"):
        hasty()


def test_a_pause_that_is_refused(start: Starter, bench: Bench) -> None:
    run = start()
    bench.fail("PATCH", "/vm", body={"fault_message": "vCPUs do not stop"})
    for _ in range(2):
        with pytest.raises(ApiError, match=r"^PATCH /vm: 400: vCPUs do not stop$"):
            run.vmm.pause()


def test_a_save_that_fails(start: Starter, tmp_path: Path) -> None:
    with pytest.raises(
        SaveError, match=r"^PUT /snapshot/create: 400: Create snapshot error: .* No such file"
    ):
        start().vmm.save(tmp_path / "missing")


def test_a_save_in_which_it_dies(start: Starter, bench: Bench, tmp_path: Path) -> None:
    run = start()
    bench.fail("PUT", "/snapshot/create", status=151, how="exit")
    with pytest.raises(SaveError, match="Firecracker ended with exit code 151: "):
        run.vmm.save(tmp_path)
    assert run.vmm.exit is not None
    assert not run.vmm.exit.expected


def spoil_state(saved: Saved) -> None:
    saved.state.write_text("{")


def cut_state(saved: Saved) -> None:
    saved.state.unlink()


def cut_memory(saved: Saved) -> None:
    assert saved.memory is not None
    os.truncate(saved.memory, 4096)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (spoil_state, "CRC64 validation failed"),
        (cut_state, "Failed to open snapshot file: No such file or directory (os error 2)"),
        (cut_memory, "memory size mismatch"),
    ],
)
def test_what_does_not_load(
    start: Starter, saved: Saved, spoil: Callable[[Saved], None], text: str
) -> None:
    spoil(saved)
    with pytest.raises(SaveError) as caught:
        start(saved=saved)
    assert str(caught.value) == f"PUT /snapshot/load: 400: Load snapshot error: {text}"


def test_a_card_that_was_not_saved(start: Starter, saved: Saved) -> None:
    with pytest.raises(SaveError, match="Unknown Network Device"):
        start(saved=saved, nics=(*NICS, Nic("tap3", "52:54:00:12:03:01")))


def test_a_guest_without_an_agent(start: Starter, image: Image) -> None:
    run = start(image=replace(image, cmdline=("standin.deaf",)))
    with pytest.raises(DialError) as caught:
        greeted(run, 0.2)
    # The last attempt may have had no time left.
    assert str(caught.value).startswith("cannot reach the agent in the guest: not reached in 0.2 s")
    closed = [each for each in caught.value.attempts if "closed before OK" in each]
    assert "the agent does not run" in closed[0]


def test_a_guest_that_stands_still(start: Starter, saved: Saved) -> None:
    run = start(saved=saved, paused=True)
    with pytest.raises(DialError, match=r"not reached in 0\.2 s: accepted, and no answer$"):
        greeted(run, 0.2)


def test_dialling_one_that_ended(start: Starter, image: Image) -> None:
    run = start(image=replace(image, cmdline=("standin.deaf", "standin.panic")))
    with pytest.raises(DialError, match=r"in the guest: the VMM ended \(exit code 0: "):
        greeted(run, 60)


def test_dialling_one_whose_kernel_panicked(start: Starter, image: Image) -> None:
    run = start(image=replace(image, cmdline=("standin.deaf",)))
    with pytest.raises(DialError, match=r"the guest is dead: Kernel panic - not syncing$"):
        greeted(run, 60, lambda: "Kernel panic - not syncing")


def test_what_it_cannot_do(start: Starter, tmp_path: Path) -> None:
    run = start()
    with pytest.raises(ValueError, match="raw disks have no overlays"):
        run.vmm.fork_disks([tmp_path / "disk"])
    with pytest.raises(ValueError, match="cannot be unplugged"):
        run.vmm.set_link(0, False)


# The binary


def test_the_binary() -> None:
    binary = find_firecracker()
    assert binary.version == (1, 16, 1)
    assert str(binary) == f"Firecracker 1.16.1 ({os.environ['ATTEST_FIRECRACKER']})"
    assert binary.identity.endswith(" snapshots 10.0.0")
    assert (binary.doubt("6.1.0-56-cloud-amd64"), binary.unfit("6.18.2")) == ("", "")


def test_another_binary_is_known_as_one() -> None:
    binary = find_firecracker()
    before = binary.identity
    os.utime(binary.path, (1, 1))
    assert binary.identity != before


def test_an_untested_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_STANDIN_VERSION", "1.17.0-dev")
    doubt = find_firecracker().doubt("6.1.0")
    assert doubt.startswith("Firecracker 1.17.0 (")
    assert doubt.endswith(") has not been tested with attest: 1.15 and 1.16 have")


def test_an_unknown_guest_kernel() -> None:
    doubt = find_firecracker().doubt("6.5.0-1-amd64")
    assert doubt.startswith("guest kernel 6.5.0-1-amd64 is not known to survive snapshots of ")
    assert doubt.endswith(": 5.10, 6.1, 6.12, 6.18 are")


@pytest.mark.parametrize(("kernel", "unfit"), [("6.1.0", False), ("6.18", True), ("7.2-rc1", True)])
def test_a_guest_kernel_that_does_not_survive(
    kernel: str, unfit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTEST_STANDIN_VERSION", "1.15.1")
    binary = find_firecracker()
    assert binary.unfit(kernel).endswith(": it needs 1.16.1") is unfit
    assert binary.doubt(kernel) == ""  # where it is unfit, that is told instead


@pytest.mark.parametrize("kernel", ["", "5.10.1", "6.1.0", "6.18"])
def test_a_firecracker_of_which_no_guest_survives(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTEST_STANDIN_VERSION", "1.16.0")
    binary = find_firecracker()
    unfit = binary.unfit(kernel)
    assert unfit.startswith("guests do not answer after a restore by Firecracker 1.16.0 (")
    assert unfit.endswith("): it needs 1.16.1")
    assert binary.doubt(kernel) == ""


def test_an_old_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_STANDIN_VERSION", "1.14.4")
    with pytest.raises(HostError, match=r"1\.14\.4 .* is too old: 1\.15 is the oldest"):
        find_firecracker()


def test_a_missing_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_FIRECRACKER", "no-such-program")
    with pytest.raises(HostError) as caught:
        find_firecracker()
    assert caught.value.message == "`no-such-program` was not found"
    assert "ATTEST_FIRECRACKER" in caught.value.hint


def test_a_binary_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_FIRECRACKER", "false")
    with pytest.raises(HostError, match="false --version failed: "):
        find_firecracker()


def instead(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another program that knows its version, and then does something else."""
    path = directory / "instead"
    path.write_text(
        "#!/bin/sh\ncase $1 in --version) echo Firecracker v1.16.1;; "
        f"--snapshot-version) echo v10.0.0;; *) {script};; esac\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("ATTEST_FIRECRACKER", str(path))
    find_firecracker.cache_clear()
