"""The KVM probe where KVM does not work; `tests/kvm` has where it does.

The traps are a device that opens, and stand-ins for QEMU that do with it what QEMU did where such a
device was met.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from attest.errors import HostError, UsageError
from attest.host.kvm_probe import Patience, choose, measured_pace, probe_kvm
from attest.image.model import Image
from attest.vmm.qemu.binary import find_qemu

_STAND_IN = """#!/bin/sh
if [ "$1" = --version ]; then
    echo "QEMU emulator version 10.0.0"
    exit
fi
echo started >> "$0.log"
for argument; do
    case $argument in fd=*,set=1) console=/proc/self/fd/${argument#fd=}; break ;; esac
done
console=${console%,set=1}
"""

IMAGE = Image(
    digest="0" * 64, name="none", arch="x86_64", path=Path("/nonexistent"), root=None,
    kernel=Path(__file__), vmlinux=Path("/nonexistent"), initrd=Path("/nonexistent"),
    cmdline=(), init="agent",
)  # fmt: skip

Trap = Callable[[str], Path]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is probed instead of `/dev/kvm`: nothing, so far."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "kvm"


@pytest.fixture
def trap(device: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    """Make the device one that opens, and QEMU a shell script; its log has a line for each run."""
    qemu = device.with_name("qemu")

    def make(script: str) -> Path:
        device.touch()
        qemu.write_text(_STAND_IN + script)
        qemu.chmod(0o755)
        return device.with_name("qemu.log")

    monkeypatch.setenv("ATTEST_QEMU", str(qemu))
    find_qemu.cache_clear()
    yield make
    find_qemu.cache_clear()


def test_without_a_device_there_is_no_kvm(device: Path) -> None:
    probe = probe_kvm(image=IMAGE, device=device)
    assert (probe.usable, probe.reason) == (False, f"{device} does not exist")


def test_a_device_that_this_user_may_not_open(device: Path) -> None:
    device.touch(mode=0o000)
    with _ordinary_user():
        probe = probe_kvm(image=IMAGE, device=device)
    assert not probe.usable
    assert probe.reason == f"{device} may not be opened by this user; join the group `kvm`"


@contextmanager
def _ordinary_user() -> Iterator[None]:
    """Root ignores modes."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_device_without_a_driver(device: Path) -> None:
    device.symlink_to(device)  # as good as any reason beside those two
    assert "cannot be opened: Too many levels" in probe_kvm(image=IMAGE, device=device).reason


def test_without_an_image_nothing_is_tried(trap: Trap, device: Path) -> None:
    log = trap("exit 1")
    probe = probe_kvm(device=device)
    assert not probe.usable
    assert "no image to boot with it" in probe.reason
    assert not log.exists()


def test_a_register_that_the_outer_hypervisor_refuses(trap: Trap, device: Path) -> None:
    trap('echo "error: failed to set MSR 0x10a to 0x0" >&2; kill -ABRT $$')
    probe = probe_kvm(image=IMAGE, device=device)
    assert not probe.usable
    assert "QEMU ended with signal 6: error: failed to set MSR 0x10a" in probe.reason


def test_a_guest_that_never_runs(trap: Trap, device: Path) -> None:
    trap("sleep 1000")
    probe = probe_kvm(image=IMAGE, device=device, patience=Patience(quiet=0.5))
    assert not probe.usable
    assert "a guest got stuck without a word" in probe.reason


def test_a_guest_that_kvm_emulates_is_not_waited_for(trap: Trap, device: Path) -> None:
    log = trap("echo one > $console; sleep 1000")
    patience = Patience(doubt=2.0, quiet=600.0)
    probe = probe_kvm(image=IMAGE, device=device, patience=patience, pace=lambda _: 1080.4)
    assert not probe.usable
    assert probe.reason == f"{device} opens, but it emulates guests: two instructions take 1080 ns"
    assert log.read_text() == "started\n"


@pytest.mark.parametrize("pace", [0.7, None])
def test_a_guest_that_is_quiet_at_first_is_waited_for(
    trap: Trap, device: Path, pace: float | None
) -> None:
    trap("sleep 1; echo 'attest-stage: init' > $console; sleep 1000")
    patience = Patience(doubt=0.0)
    assert probe_kvm(image=IMAGE, device=device, patience=patience, pace=lambda _: pace).usable


def test_a_device_that_is_no_kvm_has_no_pace(device: Path) -> None:
    device.touch()
    assert measured_pace(device) is None


def test_a_guest_that_stops_in_the_middle(trap: Trap, device: Path) -> None:
    trap("printf '[ 0.1] one\\r\\n\\033[31m[ 0.2] two\\r\\n' > $console; sleep 1000")
    probe = probe_kvm(image=IMAGE, device=device, patience=Patience(quiet=2.0))
    assert not probe.usable
    assert probe.reason.endswith("a guest got stuck after saying: [ 0.2] two")


def test_it_tells_how_the_first_guest_failed(trap: Trap, device: Path) -> None:
    trap(
        'echo one > $console\nif [ "$(wc -l < "$0.log")" = 2 ]; then kill -ABRT $$; fi\nsleep 1000'
    )
    probe = probe_kvm(image=IMAGE, device=device, patience=Patience(quiet=2.0))
    assert probe.reason.endswith("a guest got stuck after saying: one")


def test_a_guest_that_stops_once_is_no_proof(trap: Trap, device: Path) -> None:
    log = trap(
        "echo one > $console\n"
        'if [ "$(wc -l < "$0.log")" = 2 ]; then echo "attest-stage: init" > $console; fi\n'
        "sleep 1000"
    )
    assert probe_kvm(image=IMAGE, device=device, patience=Patience(quiet=2.0)).usable
    assert log.read_text() == "started\n" * 2


def test_a_guest_that_talks_for_ever(trap: Trap, device: Path) -> None:
    trap("while sleep 0.01; do echo again > $console; done")
    assert not probe_kvm(image=IMAGE, device=device, patience=Patience(quiet=0.5, talk=2)).usable


def test_a_guest_that_is_slow_is_not_stuck(trap: Trap, device: Path) -> None:
    trap(
        "for i in 1 2 3 4 5 6 7 8; do echo $i > $console; sleep 0.5; done\n"
        "echo 'attest-stage: init' > $console; sleep 1000"
    )
    assert probe_kvm(image=IMAGE, device=device, patience=Patience(quiet=3.0)).usable


def test_the_answer_is_remembered(trap: Trap, device: Path) -> None:
    log = trap("kill -ABRT $$")
    said: list[str] = []
    first, again = (probe_kvm(image=IMAGE, device=device, tell=said.append) for _ in range(2))
    assert first == again
    assert log.read_text() == "started\n"
    asked, answered = said
    assert asked.startswith("does KVM work here?")
    assert answered == f"KVM is not used: {device} opens, but QEMU ended with signal 6"


def test_the_answer_is_that_of_all_images_with_the_kernel(
    trap: Trap, device: Path, tmp_path: Path
) -> None:
    log = trap("kill -ABRT $$")
    kernel, same, other = (tmp_path / name for name in ("kernel", "same", "other"))
    kernel.write_text("a kernel")
    same.hardlink_to(kernel)
    other.write_text("a kernel")
    for number, file in enumerate((kernel, same, other)):
        probe_kvm(image=replace(IMAGE, digest=str(number), kernel=file), device=device)
    assert log.read_text() == "started\n" * 2


def test_emulation_is_taken_where_kvm_does_not_work(trap: Trap, device: Path) -> None:
    trap("kill -ABRT $$")
    assert choose("auto", IMAGE, device=device) == "tcg"
    with pytest.raises(HostError, match="KVM does not work here") as caught:
        choose("kvm", IMAGE, device=device)
    assert caught.value.hint == "use --accel tcg"


def test_an_accelerator_that_there_is_not(trap: Trap, device: Path) -> None:
    log = trap("kill -ABRT $$")
    with pytest.raises(UsageError, match=r"accelerator: expected .*, found 'kmv'") as caught:
        choose("kmv", IMAGE, device=device)  # type: ignore[arg-type]
    assert caught.value.hint == "did you mean `kvm`?"
    assert not log.exists()


def test_a_qemu_is_asked_that_is_not_the_hosts(trap: Trap, device: Path, tmp_path: Path) -> None:
    trap("kill -ABRT $$")
    other = tmp_path / "other"
    other.write_text((tmp_path / "qemu").read_text())
    other.chmod(0o755)
    assert (
        choose("auto", IMAGE, device=device)
        == choose("auto", IMAGE, find_qemu(str(other)), device=device)
        == "tcg"
    )
    assert (tmp_path / "other.log").read_text() == "started\n"


def test_answers_of_earlier_boots_are_removed(trap: Trap, device: Path, tmp_path: Path) -> None:
    trap("kill -ABRT $$")
    records = tmp_path / "cache/attest/kvm-probe"
    records.mkdir(parents=True)
    (records / "old").touch()
    (records / "new").touch()
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    os.utime(records / "old", (boot - 60, boot - 60))
    probe_kvm(image=IMAGE, device=device)
    left = {path.name for path in records.iterdir()}
    assert "new" in left
    assert "old" not in left
    assert len(left) == 2


def test_emulation_asks_no_probe(trap: Trap, device: Path) -> None:
    log = trap("kill -ABRT $$")
    assert choose("tcg", IMAGE, device=device) == "tcg"
    assert not log.exists()
