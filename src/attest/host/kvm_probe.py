"""KVM or software emulation: KVM only where a guest has been seen running with it.

`/dev/kvm` can open and create a virtual machine and still not run one: QEMU aborts on a register
that the outer hypervisor refuses, or the guest stalls. So the probe boots a kernel, to the agent as
its init. The answer is for that kernel, and holds until the host reboots.

A guest is stuck when it says nothing for long, not when it takes long: in a nested machine it may.
What is long there shows in how long QEMU takes to say its version. A guest that is quiet at first
is waited for only where KVM does not emulate it (`attest.host.kvm_pace`). One that has said
something and fails then is no proof: another is tried.
"""

from __future__ import annotations

import os
import platform
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec
from msgspec.structs import replace

from attest.errors import HostError
from attest.guest.agent.binary import agent_binary
from attest.image.model import Image
from attest.manifest import Accelerator
from attest.net.cell import Cell
from attest.support.nix_sandbox import remedy
from attest.support.paths import MONTH, cache_dir, mark_used
from attest.support.scratch import Scratch
from attest.support.text import plain_text
from attest.support.validation import check_choice
from attest.vmm.base import MachineSpec
from attest.vmm.qemu.binary import QemuBinary, find_qemu
from attest.vmm.qemu.vmm import Qemu

__all__ = ["KvmProbe", "Patience", "choose", "measured_pace", "probe_kvm"]

_DEVICE: Final = Path("/dev/kvm")
_PROOF: Final = b"attest-stage: init"
_SLOW: Final = 300.0
"""Nanoseconds for two instructions: KVM takes one, 1,000 where it emulates them."""

_REAPED: Final = 0.2
"""Seconds: the console of a QEMU that ends closes a moment before its process is gone."""

_PACE: Final = Path(__file__).with_name("kvm_pace.py")
_PACE_LIMIT: Final = 5.0
"""Seconds after which it was not found out."""

_GUESTS: Final = 2
"""How many guests may fail on their way: KVM that is itself emulated loses one now and then."""


class KvmProbe(msgspec.Struct, frozen=True):
    """What the probe found.

    Attributes:
        usable: A guest has run with KVM.
        reason: Why not, or how it was seen.
    """

    usable: bool
    reason: str


class Patience(msgspec.Struct, frozen=True):
    """How long a guest that is to show that KVM works may take.

    Attributes:
        doubt: Seconds without a word, after which KVM's pace is measured.
        quiet: Seconds without a word, after which it is stuck; mostly it is at its init after one.
        quiet_starts: As many times as long as QEMU takes to say its version, if that is more:
            0.02 s on a fast host.
        talk: As many times as long as it may be quiet, it may have much to say and not reach its
            init.
    """

    doubt: float = 0.5
    quiet: float = 5.0
    quiet_starts: float = 100
    talk: float = 12


_PATIENCE: Final = Patience()


def _silent(_line: str) -> None:
    pass


def choose(
    wanted: Accelerator,
    image: Image,
    qemu: QemuBinary | None = None,
    *,
    device: Path = _DEVICE,
    tell: Callable[[str], None] = _silent,
) -> Literal["kvm", "tcg"]:
    """Decide which accelerator a run takes.

    Args:
        wanted: That one, or ``"auto"``.
        image: Whose kernel a probe boots.
        qemu: What a probe boots it with; default: the host's QEMU.
        device: KVM's.
        tell: Called with a line before a guest is booted, and with what was found then.

    Raises:
        UsageError: There is no such accelerator.
        HostError: KVM was asked for and does not work.
    """
    check_choice(wanted, get_args(Accelerator), "accelerator")
    if wanted == "tcg":
        return "tcg"
    probe = probe_kvm(image=image, qemu=qemu, device=device, tell=tell)
    if probe.usable:
        return "kvm"
    if wanted == "kvm":
        raise HostError(
            f"KVM does not work here: {probe.reason}", hint=remedy(device, "use --accel tcg")
        )
    return "tcg"


def measured_pace(device: Path) -> float | None:
    """How long KVM takes for two instructions: one nanosecond, or 1,000 where it emulates them.

    Args:
        device: KVM's.

    Returns:
        Nanoseconds of processor time; None where that was not found out.
    """
    if platform.machine() != "x86_64":
        return None
    command = [sys.executable, "-I", str(_PACE), str(device)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PACE_LIMIT, check=False)
        return float(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None


def probe_kvm(
    *,
    image: Image | None = None,
    qemu: QemuBinary | None = None,
    device: Path = _DEVICE,
    patience: Patience = _PATIENCE,
    pace: Callable[[Path], float | None] = measured_pace,
    tell: Callable[[str], None] = _silent,
) -> KvmProbe:
    """Find out whether KVM runs guests here.

    Args:
        image: Whose kernel to boot; without one, only what can be seen without booting is told.
        qemu: What to boot it with; default: the host's QEMU.
        device: KVM's, which QEMU opens by itself.
        patience: How long the guest may take.
        pace: Measures how fast KVM is, see `measured_pace`.
        tell: As with `choose`.
    """
    if refusal := _refusal(device):
        return KvmProbe(False, refusal)
    if image is None:
        return KvmProbe(False, f"{device} opens; no image to boot with it was given")
    qemu = qemu or find_qemu()
    record = cache_dir() / "kvm-probe" / _key(image, qemu)
    with suppress(OSError, msgspec.DecodeError):
        probe = msgspec.json.decode(record.read_bytes(), type=KvmProbe)
        mark_used(record)
        return probe
    tell("does KVM work here? a guest is booted with it, once after each boot of the host")
    probe = _boot(image, qemu, device, patience, pace)
    tell("KVM works" if probe.usable else f"KVM is not used: {probe.reason.splitlines()[0]}")
    with suppress(OSError):  # of a cache that cannot be written: it is asked again the next time
        record.parent.mkdir(parents=True, exist_ok=True)
        beside = record.with_name(f"{record.name}.{os.getpid()}")
        beside.write_bytes(msgspec.json.encode(probe))
        beside.rename(record)
    # What was found before the host has booted is not asked for any more.
    mark_used(record, max_age=min(MONTH, time.clock_gettime(time.CLOCK_BOOTTIME)))
    return probe


def _refusal(device: Path) -> str:
    """Why the device cannot be opened; a container may forbid that to root too."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{device} does not exist"
    except PermissionError:
        return f"{device} may not be opened by this user; join the group `kvm`"
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    return ""


def _key(image: Image, qemu: QemuBinary) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    # Most images have the same kernel, as hard links of one file.
    kernel = image.kernel.stat()
    file = kernel.st_dev, kernel.st_ino, kernel.st_size, kernel.st_mtime_ns
    return sha256(f"{boot}{qemu}{file}".encode()).hexdigest()[:32]


def _boot(
    image: Image,
    qemu: QemuBinary,
    device: Path,
    patience: Patience,
    pace: Callable[[Path], float | None],
) -> KvmProbe:
    failures = []
    for _ in range(_GUESTS):
        seen, failure = _boot_guest(image, qemu, patience, lambda: pace(device))
        if not failure:
            return KvmProbe(True, "a guest booted with it")
        failures.append(failure)
        if not seen:
            break
    return KvmProbe(False, f"{device} opens, but {failures[0]}")


def _boot_guest(
    image: Image, qemu: QemuBinary, patience: Patience, pace: Callable[[], float | None]
) -> tuple[bytes, str]:
    """What a guest said on its console, and how it failed; empty when it did not."""
    with ExitStack() as undo:
        scratch = Scratch()
        undo.callback(scratch.close)
        cell = Cell(scratch.path)
        undo.callback(cell.close)
        scratch.create()
        spec = MachineSpec(
            name="kvm-probe", image=_alone(image, scratch.path), memory=256, vcpus=1,
            machine="microvm", accelerator="kvm", directory=scratch.path,
        )  # fmt: skip
        vmm = Qemu(spec, qemu, enter=cell.enter, on_exit=lambda _: None, on_event=lambda *_: None)
        for end in (vmm.console.close, vmm.kill):
            undo.callback(end)
        quiet = max(patience.quiet, patience.quiet_starts * _start(qemu))
        console = _Console(vmm.console.output, time.monotonic() + patience.talk * quiet)
        if console.gets_stuck(min(patience.doubt, quiet)):
            taken = pace()
            if taken is not None and taken > _SLOW:
                return b"", f"it emulates guests: two instructions take {taken:.0f} ns"
        stuck = console.gets_stuck(quiet)
        if _PROOF in console.seen:
            return console.seen, ""
        exit = None if stuck else vmm.wait(_REAPED)
        place = f"a guest got stuck {_place(console.seen)}"
        return console.seen, f"QEMU ended with {exit}" if exit else place


class _Console:
    """What a guest says.

    Args:
        stream: Its end.
        deadline: When there was time enough for it.

    Attributes:
        seen: What it has said.
    """

    def __init__(self, stream: FileIO, deadline: float) -> None:
        self.seen = b""
        self._stream = stream
        self._deadline = deadline

    def gets_stuck(self, quiet: float) -> bool:
        """Read on, up to the proof, or for so many seconds in which nothing comes.

        Returns:
            Nothing came. Else there is the proof, or QEMU has ended.
        """
        while _PROOF not in self.seen:
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([self._stream], [], [], min(left, quiet))[0]:
                return True
            data = self._stream.read(65536)
            if not data:
                return False
            self.seen += data
        return False


def _alone(image: Image, directory: Path) -> Image:
    """The image without its root, and with an initrd that has the agent and nothing else."""
    from attest.image.initrd import CpioWriter  # a probe is made once after a host's boot

    initrd = directory / "initrd"
    with initrd.open("wb") as stream:
        archive = CpioWriter(stream)
        archive.file("init", agent_binary(image.arch).read_bytes(), 0o755)
        archive.finish()
    return replace(image, initrd=initrd, own_initrd=False, root=None)


def _start(qemu: QemuBinary) -> float:
    """Seconds that a QEMU takes to start and end."""
    begun = time.monotonic()
    subprocess.run([qemu.path, "--version"], stdout=subprocess.DEVNULL, check=False)
    return time.monotonic() - begun


def _place(seen: bytes) -> str:
    lines = plain_text(seen.decode(errors="replace")).splitlines()
    return f"after saying: {lines[-1]}" if lines else "without a word"
