"""The Cloud Hypervisor backend's whole life, against a stand-in that holds it to the API."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from attest.errors import HostError
from attest.image.model import Image
from attest.net.cell import Cell
from attest.support.concurrency import call_in_thread
from attest.vmm.base import DialError, MachineSpec, Nic, Saved, SaveError
from attest.vmm.cloud_hypervisor import config as cloud_hypervisor_config
from attest.vmm.cloud_hypervisor.binary import find_cloud_hypervisor
from attest.vmm.cloud_hypervisor.vmm import CloudHypervisor
from attest.vmm.cloud_hypervisor.whole_state import read_devices
from attest.vmm.http_api import ApiError
from tests.contract.server import Bench
from tests.contract.starter import Starter, answers, body, greeted, hears, sent

DESCRIPTIONS = "cloud-hypervisor"

NICS = (Nic("tap1", "52:54:00:12:01:01"), Nic("tap2", "52:54:00:12:02:01"))
MIB = 1 << 20


def call(name: str) -> str:
    return f"{'GET' if name == 'vm.counters' else 'PUT'} /api/v1/{name}"


def calls(*names: str) -> list[str]:
    return [call(name) for name in names]


BOOT = calls("vm.create", "vm.boot")


@pytest.fixture(autouse=True)
def standin(
    description: Path,
    bench: Bench,
    program: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    monkeypatch.setenv("ATTEST_STANDIN_DESCRIPTION", str(description))
    monkeypatch.setenv("ATTEST_CLOUD_HYPERVISOR", str(program("standin_cloud_hypervisor")))
    monkeypatch.setattr(cloud_hypervisor_config, "landlock_version", lambda: 2)
    find_cloud_hypervisor.cache_clear()
    yield
    find_cloud_hypervisor.cache_clear()


@pytest.fixture
def start(tmp_path: Path, cell: Cell, image: Image) -> Iterator[Starter]:
    directory = tmp_path / "machine"
    directory.mkdir()
    spec = MachineSpec(
        name="machine", image=image, memory=64, vcpus=2, machine="microvm", accelerator="kvm",
        directory=directory, nics=NICS,
    )  # fmt: skip
    start = Starter(CloudHypervisor, find_cloud_hypervisor, cell, spec, "cloud-hypervisor-")
    yield start
    start.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "saved"
    place.mkdir()
    return place


@pytest.fixture
def saved(start: Starter, place: Path) -> Saved:
    """A machine whose memory is a file."""
    run = start(memory_file=place / "memory")
    saved = run.vmm.save(place)
    run.vmm.kill()
    return saved


@pytest.fixture
def stream(start: Starter, tmp_path: Path) -> Saved:
    """A machine that was saved as one file."""
    (tmp_path / "stream").mkdir()
    run = start()
    saved = run.vmm.save_running(tmp_path / "stream")
    run.vmm.kill()
    return saved


def created(bench: Bench) -> Any:
    """What the machine is created from, in the one request for that."""
    return body(bench, call("vm.create"))


def restored(bench: Bench) -> list[Any]:
    """Each ``config.json`` from which a machine was restored."""
    lines = (bench.directory / "restored.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def zone(config: Any) -> Any:
    (zone,) = config["memory"]["zones"]
    return zone


def rebooting(image: Image) -> Image:
    return replace(image, cmdline=("standin.reboot",))


def eventually(true: Callable[[], object]) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.01)
    return False


# Life


def test_a_boot(start: Starter, bench: Bench, image: Image) -> None:
    run = start()
    assert sent(bench) == BOOT
    config = created(bench)
    arguments = config["payload"].pop("cmdline").split()
    assert config == {
        "cpus": {"boot_vcpus": 2, "max_vcpus": 2, "nested": False, "core_scheduling": "Off"},
        "memory": {
            "size": 0,
            "zones": [{"id": "memory", "size": 64 * MIB, "prefault": False, "shared": True}],
        },
        "payload": {"kernel": str(image.vmlinux), "initramfs": str(image.initrd)},
        "disks": [
            {
                "id": "root", "serial": "root", "path": str(image.root), "readonly": True,
                "image_type": "Raw",
            }
        ],
        "net": [
            {"id": "nic0", "tap": "tap1", "mac": "52:54:00:12:01:01", "num_queues": 2},
            {"id": "nic1", "tap": "tap2", "mac": "52:54:00:12:02:01", "num_queues": 2},
        ],
        "rng": {"id": "rng", "src": "/dev/urandom"},
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
        "vsock": {"id": "vsock", "cid": 3, "socket": "vsock"},
    }  # fmt: skip
    assert arguments[0] == "console=ttyS0"
    assert arguments[-2:] == ["attest.root=root", "quiet"]
    assert hears(run, "attest-stage: init")
    assert answers(run)


def test_a_guest_that_is_all_initrd(start: Starter, bench: Bench, image: Image) -> None:
    start(image=replace(image, root=None), nics=())
    assert created(bench).keys() & {"disks", "net"} == set()
    assert "attest.root" not in created(bench)["payload"]["cmdline"]


@pytest.mark.parametrize("names", [["root", "disk0", "disk1"], ["disk0", "disk1"]])
def test_disks(
    start: Starter, bench: Bench, image: Image, tmp_path: Path, names: list[str]
) -> None:
    def disks(directory: str) -> tuple[Path, ...]:
        files = [tmp_path / directory / name for name in ("one", "two")]
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.touch()
        return tuple(files)

    image = image if "root" in names else replace(image, root=None)
    run = start(disks=disks("original"), image=image)
    assert [each["id"] for each in created(bench)["disks"]] == names
    assert created(bench)["disks"][-1] == {
        "id": "disk1", "serial": "disk1", "path": str(tmp_path / "original/two"),
        "readonly": False, "image_type": "Raw",
    }  # fmt: skip
    saved = run.vmm.save_running(tmp_path)
    start(saved=saved, disks=disks("clone"), image=image)
    (clone,) = restored(bench)
    assert clone["disks"][-1] == created(bench)["disks"][-1] | {"path": str(tmp_path / "clone/two")}


def test_a_disk_for_the_root(start: Starter, bench: Bench, image: Image, tmp_path: Path) -> None:
    (tmp_path / "changes").touch()
    start(disks=(tmp_path / "changes",), root_size=8192, image=image)
    assert [each["id"] for each in created(bench)["disks"]] == ["root", "overlay"]
    assert created(bench)["disks"][-1]["serial"] == "overlay"
    arguments = created(bench)["payload"]["cmdline"].split()
    assert arguments[-4:-1] == [
        "attest.root=root", "attest.overlay=overlay", "attest.root_size=8192",
    ]  # fmt: skip


def test_landlock(start: Starter, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_hypervisor_config, "landlock_version", lambda: 3)
    run = start()
    (directory,) = start.left()
    assert created(bench)["landlock_enable"] is True
    assert created(bench)["landlock_rules"] == [
        {"path": str(start.spec.directory / directory), "access": "rw"}
    ]
    assert answers(run)


def test_memories(start: Starter, bench: Bench, tmp_path: Path) -> None:
    start(prefault=True)
    start(hugepages=True)
    start(memory_file=tmp_path / "memory")
    common = {"id": "memory", "size": 64 * MIB, "shared": True}
    assert [zone(each.body) for each in bench.requests if str(each) == BOOT[0]] == [
        common | {"prefault": True},
        common | {"prefault": True, "hugepages": True, "hugepage_size": 2 * MIB},
        common | {"prefault": False, "file": str(tmp_path / "memory")},
    ]
    assert (tmp_path / "memory").stat().st_size == 64 * MIB


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
    run.console.send("something")  # each key counts at once, not each line
    assert hears(run, "typed: something")


def test_pausing(start: Starter, bench: Bench) -> None:
    run = start()
    run.vmm.resume()
    run.vmm.pause()
    run.vmm.pause()
    run.vmm.resume()
    run.vmm.resume()
    assert sent(bench)[len(BOOT) :] == calls("vm.pause", "vm.resume")


def test_draining(start: Starter, bench: Bench) -> None:
    start().vmm.drain()
    assert sent(bench)[len(BOOT) :] == calls(*["vm.counters"] * 4)  # the third is the last news
    start(nics=()).vmm.drain()  # there is nothing to ask
    assert sent(bench)[-2:] == BOOT


def test_draining_while_packets_come_all_the_time(
    start: Starter, bench: Bench, image: Image
) -> None:
    run = start(image=replace(image, cmdline=("standin.traffic",)))
    call_in_thread(run.vmm.drain, "drain").result(30)
    # 1000 packets, of which the stand-in reads 100 at a time, are all that can have waited.
    assert sent(bench)[len(BOOT) :] == calls(*["vm.counters"] * 11)


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


def test_a_guest_that_powers_off(start: Starter, image: Image) -> None:
    run = start(image=replace(image, cmdline=("standin.off",)))
    exit = run.vmm.wait(30)
    assert exit is not None
    assert (exit.status, exit.expected, run.events) == (0, True, [])


def test_a_guest_that_must_not_reboot(start: Starter, bench: Bench, image: Image) -> None:
    run = start(image=rebooting(image))
    exit = run.vmm.wait(30)
    assert exit is not None
    assert (exit.status, exit.expected, run.events) == (0, True, [])
    assert sent(bench) == [*BOOT, call("vmm.shutdown")]


def test_a_guest_that_must_not_reboot_and_does_not_end(
    start: Starter, bench: Bench, image: Image
) -> None:
    bench.fail("PUT", "/api/v1/vmm.shutdown", status=500, body=["Error from API", "no"])
    exit = start(image=rebooting(image)).vmm.wait(30)
    assert exit is not None
    assert exit.expected


def test_a_guest_that_reboots(start: Starter, bench: Bench, image: Image) -> None:
    run = start(image=rebooting(image), allow_reboot=True)
    assert eventually(lambda: run.events)
    assert run.events == [("RESET", {"guest": True})]
    assert answers(run)
    assert sent(bench) == BOOT


# Saving and continuing


def test_saving(start: Starter, bench: Bench, place: Path) -> None:
    run = start(memory_file=place / "memory")
    saved = run.vmm.save(place)
    assert saved == Saved(place / "memory", place / "state")
    assert [path.name for path in sorted(place.iterdir())] == ["memory", "state"]
    assert json.loads(read_devices(saved.state))["ranges"] == 0
    (directory,) = start.left()
    assert sent(bench)[len(BOOT) :] == calls("vm.pause", "vm.snapshot")
    assert body(bench, call("vm.snapshot")) == {
        "destination_url": f"file://{start.spec.directory}/{directory}/snapshot"
    }


def test_saving_one_that_goes_on(start: Starter, bench: Bench, place: Path, tmp_path: Path) -> None:
    run = start()
    run.vmm.pause()
    saved = run.vmm.save_running(place)
    assert saved == Saved(None, place / "state")
    assert saved.state.stat().st_size > 64 * MIB
    assert json.loads(read_devices(saved.state))["ranges"] == 64 * MIB
    run.vmm.resume()
    assert sent(bench)[len(BOOT) :] == calls("vm.pause", "vm.snapshot", "vm.resume")
    assert answers(run)
    (tmp_path / "again").mkdir()
    assert run.vmm.save_running(tmp_path / "again").state.exists()


def test_a_machine_with_a_memory_file_is_saved_for_good(start: Starter, place: Path) -> None:
    run = start(memory_file=place / "memory")
    with pytest.raises(ValueError, match="has a memory file"):
        run.vmm.save_running(place)


def test_a_machine_with_shared_memory_is_saved_with_a_copy_of_it_and_goes_on(
    start: Starter, bench: Bench, place: Path
) -> None:
    run = start(shared_memory=True)
    (zone,) = created(bench)["memory"]["zones"]
    memory = Path(zone["file"])
    assert zone["shared"]
    with memory.open("r+b") as file:
        file.write(b"as it was")
    saved = run.vmm.save_running(place)
    run.vmm.resume()
    with memory.open("r+b") as file:
        file.write(b"since then")
    assert saved == Saved(place / "memory", place / "state")
    assert saved.memory is not None
    with saved.memory.open("rb") as file:
        assert file.read(9) == b"as it was"
    assert saved.memory.stat().st_size == 64 * MIB
    assert saved.memory.stat().st_blocks * 512 < MIB
    assert answers(run)
    run.vmm.kill()
    assert not memory.exists()


def test_a_clone(start: Starter, bench: Bench, saved: Saved, image: Image) -> None:
    before = len(bench.requests)
    nics = (Nic("tap1s", NICS[0].mac), Nic("tap2s", NICS[1].mac))
    run = start(saved=saved, nics=nics)
    assert sent(bench)[before:] == calls("vm.restore", "vm.resume")
    (directory,) = start.left()
    assert body(bench, call("vm.restore")) == {
        "source_url": f"file://{start.spec.directory}/{directory}/snapshot", "prefault": False,
    }  # fmt: skip
    assert not Path(start.spec.directory, directory, "snapshot").exists()
    run.vmm.resume()  # it runs
    assert len(bench.requests) == before + 2
    assert answers(run)


def test_what_a_clone_is_made_of(
    start: Starter, bench: Bench, saved: Saved, stream: Saved, tmp_path: Path
) -> None:
    original = next(each.body for each in bench.requests if str(each) == BOOT[0])
    nics = (Nic("tap1s", NICS[0].mac), Nic("tap2s", NICS[1].mac))
    baked = tmp_path / "memory"
    start(saved=saved, nics=nics)
    start(saved=stream)
    start(saved=stream, memory_file=baked)
    assert saved.memory is not None
    with saved.memory.open("r+b") as memory:
        memory.write(b"as saved")
    start(saved=saved, memory_file=tmp_path / "copied")
    mapped, loaded, filled, copied = restored(bench)
    common = {"id": "memory", "size": 64 * MIB, "prefault": False}
    assert zone(mapped) == common | {"file": str(saved.memory), "shared": False}
    assert zone(loaded) == common | {"shared": True}
    assert zone(filled) == common | {"file": str(baked), "shared": True}
    assert zone(copied) == common | {"file": str(tmp_path / "copied"), "shared": True}
    assert (tmp_path / "copied").read_bytes() == saved.memory.read_bytes()
    assert [each["tap"] for each in mapped["net"]] == ["tap1s", "tap2s"]
    assert loaded.keys() == original.keys()
    for each in original.keys() - {"memory", "net"}:
        assert mapped[each] == loaded[each] == original[each]


def test_a_clone_that_waits(start: Starter, bench: Bench, saved: Saved) -> None:
    before = len(bench.requests)
    run = start(saved=saved, paused=True)
    assert sent(bench)[before:] == calls("vm.restore")
    run.vmm.pause()
    run.vmm.resume()
    assert sent(bench)[before:] == calls("vm.restore", "vm.resume")
    assert answers(run)


def test_clones_at_once_and_a_clone_of_one(start: Starter, saved: Saved, tmp_path: Path) -> None:
    runs = [start(saved=saved) for _ in range(3)]
    assert all(answers(run) for run in runs)
    (tmp_path / "again").mkdir()
    again = runs[0].vmm.save_running(tmp_path / "again")
    assert again.memory is None  # the file that it maps has not changed
    assert answers(start(saved=again))


def test_a_stream_becomes_a_memory_that_can_be_mapped(
    start: Starter, stream: Saved, place: Path
) -> None:
    run = start(saved=stream, memory_file=place / "memory", paused=True)
    baked = run.vmm.save(place)
    run.vmm.kill()
    assert baked == Saved(place / "memory", place / "state")
    assert json.loads(read_devices(baked.state))["ranges"] == 0
    assert answers(start(saved=baked))


def test_huge_pages_are_saved_whole(start: Starter, bench: Bench, place: Path) -> None:
    run = start(hugepages=True)
    saved = run.vmm.save(place)
    run.vmm.kill()
    assert saved.memory is None
    assert answers(start(hugepages=True, saved=saved))
    assert body(bench, call("vm.restore"))["prefault"] is True


def test_a_directory_with_a_long_name(start: Starter, tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    assert answers(start(directory=directory))


# Failures


@pytest.mark.parametrize("name", ["vm.create", "vm.boot"])
def test_a_boot_that_is_refused(start: Starter, bench: Bench, name: str) -> None:
    causes = ["Error from API", "The VM does not want to", "it is tired"]
    bench.fail("PUT", f"/api/v1/{name}", status=500, body=causes)
    with pytest.raises(ApiError) as caught:
        start()
    assert str(caught.value) == (
        f"{call(name)}: 500: Error from API: The VM does not want to: it is tired"
    )
    assert sent(bench) == BOOT[: BOOT.index(call(name)) + 1]


def test_a_kernel_that_is_missing(start: Starter, image: Image) -> None:
    image.vmlinux.unlink()
    with pytest.raises(ApiError, match=r"The VM could not boot: Cannot open the payload: No such"):
        start()


def test_an_end_in_the_middle_of_a_request(start: Starter, bench: Bench) -> None:
    bench.fail("PUT", "/api/v1/vm.boot", status=1, how="exit")
    with pytest.raises(ApiError) as caught:
        start()
    assert str(caught.value).startswith(f"{call('vm.boot')}: the connection failed: ")
    assert str(caught.value).endswith(
        ": Cloud Hypervisor ended with exit code 1: cloud-hypervisor: a word in the log"
    )


def test_a_process_that_does_not_come_up(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a /dev/kvm: it ends with a request before it, to which there is no answer."""
    path = tmp_path / "instead"
    path.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo cloud-hypervisor v53.0 && exit\n"
        "echo no hypervisor >&2; exit 1\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("ATTEST_CLOUD_HYPERVISOR", str(path))
    find_cloud_hypervisor.cache_clear()
    with pytest.raises(ApiError, match=r"Cloud Hypervisor ended with exit code 1: no hypervisor$"):
        start()


def test_a_pause_that_is_refused(start: Starter, bench: Bench) -> None:
    run = start()
    bench.fail("PUT", "/api/v1/vm.pause", status=500, body=["Error from API", "vCPUs do not stop"])
    for _ in range(2):
        with pytest.raises(ApiError, match=r"vm\.pause: 500: Error from API: vCPUs do not stop$"):
            run.vmm.pause()


def test_a_save_that_fails(start: Starter, tmp_path: Path, bench: Bench) -> None:
    run = start()
    with pytest.raises(SaveError, match=r"No such file or directory: .*missing/state'$"):
        run.vmm.save(tmp_path / "missing")
    bench.fail("PUT", "/api/v1/vm.snapshot", status=500, body=["Error from API", "disk full"])
    with pytest.raises(SaveError, match=r"vm\.snapshot: 500: Error from API: disk full$"):
        run.vmm.save(tmp_path)


def test_a_save_in_which_it_dies(start: Starter, bench: Bench, tmp_path: Path) -> None:
    run = start()
    bench.fail("PUT", "/api/v1/vm.snapshot", status=1, how="exit")
    for _ in range(2):
        with pytest.raises(SaveError, match="Cloud Hypervisor ended with exit code 1: "):
            run.vmm.save(tmp_path)
    assert run.vmm.exit is not None
    assert not run.vmm.exit.expected


def spoil_state(saved: Saved) -> None:
    saved.state.write_bytes(b"{" + (1).to_bytes(8, "little"))


def cut_state(saved: Saved) -> None:
    os.truncate(saved.state, 20)


def lose_state(saved: Saved) -> None:
    saved.state.unlink()


def cut_memory(saved: Saved) -> None:
    assert saved.memory is not None
    os.truncate(saved.memory, 4096)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (spoil_state, r"Error from API: The VM could not be restored: Cannot read the snapshot: "),
        (cut_state, r"^.*/state is not whole$"),
        (lose_state, r"No such file or directory: .*/state'$"),
        (cut_memory, r"could not be restored: Cannot create RAM region: past the end of the file$"),
    ],
)
def test_what_does_not_load(
    start: Starter, saved: Saved, spoil: Callable[[Saved], None], text: str
) -> None:
    spoil(saved)
    with pytest.raises(SaveError, match=text):
        start(saved=saved)


def test_a_card_that_was_not_saved(start: Starter, saved: Saved) -> None:
    with pytest.raises(SaveError, match="Cannot restore the devices"):
        start(saved=saved, nics=(*NICS, Nic("tap3", "52:54:00:12:03:01")))


def test_a_guest_without_an_agent(start: Starter, image: Image) -> None:
    run = start(image=replace(image, cmdline=("standin.deaf",)))
    with pytest.raises(DialError) as caught:
        greeted(run, 0.2)
    # The last attempt may have had no time left.
    assert str(caught.value).startswith("cannot reach the agent in the guest: not reached in 0.2 s")
    assert any(each.startswith("accepted, and closed before OK") for each in caught.value.attempts)


def test_dialling_one_that_ended(start: Starter, image: Image) -> None:
    run = start(image=replace(image, cmdline=("standin.deaf", "standin.off")))
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
    binary = find_cloud_hypervisor()
    assert binary.version == (53, 0)
    assert str(binary) == f"Cloud Hypervisor 53.0 ({os.environ['ATTEST_CLOUD_HYPERVISOR']})"
    assert (binary.doubt("6.1.0-56-cloud-amd64"), binary.unfit("6.1.0")) == ("", "")
    before = binary.identity
    os.utime(binary.path, (1, 1))
    assert binary.identity != before


def test_an_untested_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_STANDIN_VERSION", "54.0-12-gabcdef")
    doubt = find_cloud_hypervisor().doubt("6.1.0")
    assert doubt.startswith("Cloud Hypervisor 54.0 (")
    assert doubt.endswith(") has not been tested with attest: 53.0 has")


def test_an_old_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_STANDIN_VERSION", "49.0")
    with pytest.raises(HostError, match=r"49\.0 .* is too old: 50 is the oldest"):
        find_cloud_hypervisor()


def test_a_missing_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_CLOUD_HYPERVISOR", "no-such-program")
    with pytest.raises(HostError) as caught:
        find_cloud_hypervisor()
    assert caught.value.message == "`no-such-program` was not found"
    assert "ATTEST_CLOUD_HYPERVISOR" in caught.value.hint


def test_a_binary_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTEST_CLOUD_HYPERVISOR", "false")
    with pytest.raises(HostError, match="false --version failed: "):
        find_cloud_hypervisor()
