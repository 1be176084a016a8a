"""What a host needs to run machines; each need is tried for real, not looked up.

Each check returns one `Finding`. None of them raises.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from attest.disk.qemu_img import find_qemu_img
from attest.errors import HostError
from attest.image.build_space import BuildSpace
from attest.image.model import Image
from attest.image.store import ImageStore
from attest.net.bridge import Attachment, cell_with_bridges
from attest.support.nix_sandbox import remedy
from attest.support.paths import cache_dir
from attest.support.user_namespace import require_tools
from attest.vmm.cloud_hypervisor.binary import find_cloud_hypervisor
from attest.vmm.firecracker.binary import find_firecracker
from attest.vmm.firecracker.jailer import check_root, find_jailer
from attest.vmm.program import Binary
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.nested import LOADED_MODULES, STEADY_QEMU, host_support
from attest.vmm.vsock import check_vhost_vsock

if TYPE_CHECKING:
    from attest.host.kvm_probe import KvmProbe

__all__ = ["CHECKS", "Finding", "Level"]

_FAST_QEMU: Final = 10
"""The major version that translates guests' programs quickly; 7.2 is measured to be slow."""

_ROOM: Final = 2 << 30
"""Bytes that building an image can need, packages and work files included."""


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    """Machines run, but something is slower than it need be, or missing."""
    PROBLEM = "problem"
    """As it is, machines do not run on this host."""


class Finding(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        subject: What was checked.
        level: How bad it is.
        text: What was found.
        fix: What to do about it; empty when there is nothing to do.
    """

    subject: str
    level: Level
    text: str
    fix: str = ""


def check_qemu() -> Finding:
    """A QEMU that attest can use, and whether a newer one would be faster."""
    try:
        qemu = find_qemu()
    except HostError as error:
        return _problem("QEMU", error)
    found = str(qemu).removeprefix("QEMU ")
    if qemu.version[0] >= _FAST_QEMU:
        return Finding("QEMU", Level.OK, found)
    return Finding(
        "QEMU",
        Level.WARNING,
        f"{found}; without KVM, QEMU {_FAST_QEMU} starts programs in guests two to three times "
        "as fast and takes a quarter of the memory",
        _newer_qemu(),
    )


def _newer_qemu() -> str:
    package = "qemu-system-arm" if platform.machine() == "aarch64" else "qemu-system-x86"
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "RELEASE")
    return f"install a newer one; in Debian: apt-get install -t {release}-backports {package}"


def check_qemu_img() -> Finding:
    """The program that makes machines' disks; only machines that declare some need it."""
    try:
        return Finding("qemu-img", Level.OK, str(find_qemu_img()))
    except HostError as error:
        return Finding("qemu-img", Level.WARNING, error.message, error.hint)


def check_kvm() -> Finding:
    """KVM, by booting a guest with it; without an image, by opening it."""
    image = _any_image()
    try:
        probe = _probe(image)
    except HostError as error:
        return Finding("KVM", Level.WARNING, f"not tried: {error.message}", error.hint)
    if probe.usable:
        return Finding("KVM", Level.OK, probe.reason)
    text = f"{probe.reason}; machines run in software emulation"
    return Finding("KVM", Level.WARNING, text, _kvm_fix(tried=image is not None))


def _any_image() -> Image | None:
    images = ImageStore().images()
    return next((image for image in images if image.arch == platform.machine()), None)


def _probe(image: Image | None) -> KvmProbe:
    # QEMU's wrapper imports more than the other checks need.
    from attest.host.kvm_probe import probe_kvm

    return probe_kvm(image=image)


def _kvm_fix(*, tried: bool) -> str:
    device = Path("/dev/kvm")
    if not device.exists():
        return remedy(
            device,
            "modprobe kvm-intel or modprobe kvm-amd; if that fails, turn virtualisation on in "
            "the firmware, or nested virtualisation in the hypervisor this host runs under",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return f"as root: usermod -aG kvm {getpass.getuser()}; then log in again"
    if not tried:
        return "attest image build tiny, then attest doctor again: it boots that image with KVM"
    return "the hypervisor that this host runs under has to support nested virtualisation fully"


def check_firecracker() -> Finding:
    """Firecracker, with its jailer: whether machines can have it."""
    return _check_vmm("Firecracker", find_firecracker, _jailer)


def check_cloud_hypervisor() -> Finding:
    """Cloud Hypervisor: whether machines can have it."""
    return _check_vmm("Cloud Hypervisor", find_cloud_hypervisor)


def _check_vmm(
    subject: str, find: Callable[[], Binary], more: Callable[[], str] | None = None
) -> Finding:
    """A VMM beside QEMU, which nobody needs; one that is there is to work."""
    name = subject.lower().replace(" ", "-")
    variable = f"ATTEST_{name.upper().replace('-', '_')}"
    try:
        binary = find()
    except HostError as error:
        if os.environ.get(variable) or shutil.which(name):
            return Finding(subject, Level.WARNING, error.message, error.hint)
        text = f"not installed, and not needed; to have it, {error.hint}"
        return Finding(subject, Level.OK, text)
    doubt = binary.doubt("")
    text = (doubt or str(binary)).removeprefix(f"{subject} ")
    if more:
        text += f"; {more()}"
    if not _kvm_works():
        return Finding(subject, Level.WARNING, f"{text}; it needs KVM", "see KVM")
    if doubt:
        return Finding(subject, Level.WARNING, text, "use a version that has been")
    return Finding(subject, Level.OK, text)


def _kvm_works() -> bool:
    try:
        return _probe(_any_image()).usable
    except HostError:
        return False


def _jailer() -> str:
    try:
        check_root()
        return f"jailer: {find_jailer(find_firecracker().path)}"
    except HostError as error:
        return error.message


def check_host_vsock() -> Finding:
    """The host kernel's vsock, for information: only few machines use it."""
    try:
        check_vhost_vsock()
    except HostError as error:
        text = f"only QEMU needs it, for {error.message}; {error.hint}"
        return Finding("vhost-vsock", Level.OK, text)
    return Finding("vhost-vsock", Level.OK, "QEMU can have it")


def check_nested() -> Finding:
    """Machines in which KVM works, ``nested = true``: whether there can be any, and how."""
    return nested_finding("kvm" if _kvm_works() else "tcg")


def nested_finding(accelerator: str, *, modules: Path = LOADED_MODULES) -> Finding:
    """Whether there can be nested machines with an accelerator, and how.

    Args:
        accelerator: ``"kvm"`` or ``"tcg"``.
        modules: The directory in which the host's kernel tells of its modules.
    """
    try:
        qemu = find_qemu()
        how = host_support(accelerator, modules=modules)
    except HostError as error:
        return Finding("nested machines", Level.WARNING, error.message, error.hint)
    if accelerator == "tcg" and qemu.version < STEADY_QEMU:
        how += f"; each can have one CPU: with more, QEMU before {STEADY_QEMU[0]} freezes them"
        return Finding("nested machines", Level.WARNING, how, _newer_qemu())
    return Finding("nested machines", Level.OK, how)


def check_namespaces() -> Finding:
    """The namespaces that hold a test's machines, by making them."""
    try:
        _make_cell([])
    except HostError as error:
        fix = _namespace_setting() or error.hint
        return Finding("namespaces", Level.PROBLEM, error.message, fix)
    return Finding("namespaces", Level.OK, "user, network, process and mount namespaces")


def _namespace_setting() -> str:
    """The command that lifts a kernel setting which forbids namespaces; empty without one."""
    wrong = {
        "kernel/unprivileged_userns_clone": ("0", "1"),
        "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
        **{f"user/max_{kind}_namespaces": ("0", "10000") for kind in ("user", "net", "pid", "mnt")},
    }
    for name, (forbidding, allowing) in wrong.items():
        file = Path("/proc/sys", name)
        if file.exists() and file.read_text().strip() == forbidding:
            return f"as root: sysctl -w {name.replace('/', '.')}={allowing}"
    return ""


def check_networks() -> Finding:
    """Networks between machines, by making a bridge and a tap."""
    try:
        _make_cell([Attachment(vlan=1, node=1)])
    except HostError as error:
        return _problem("networks", error)
    return Finding("networks", Level.OK, "bridges and taps (/dev/net/tun)")


def _make_cell(attachments: Sequence[Attachment]) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="attest-doctor-") as scratch,
        closing(cell_with_bridges(Path(scratch), attachments)) as cell,
    ):
        cell.ready()


def check_image_building() -> Finding:
    """The programs and the ids that building an image needs."""
    try:
        require_tools("mmdebstrap", "apt-get", "dpkg-deb", "depmod", "mkfs.ext4", "lz4")
        BuildSpace(Path(os.devnull), print)
    except HostError as error:
        # What is built already still runs.
        level = Level.WARNING if ImageStore().images() else Level.PROBLEM
        return Finding("images", level, error.message, error.hint)
    return Finding("images", Level.OK, "all that building Debian images needs is here")


def check_room() -> Finding:
    """Check whether the cache's disk has room for images and snapshots."""
    cache = cache_dir()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / (1 << 30):.1f} GiB free for {cache}"
    if free >= _ROOM:
        return Finding("disk", Level.OK, text)
    fix = "attest image gc removes images not used for long; XDG_CACHE_HOME moves the cache"
    return Finding("disk", Level.WARNING, f"{text}; an image can need {_ROOM >> 30} GiB", fix)


def check_huge_pages() -> Finding:
    """Huge pages, for information: attest runs without."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE))
    total, free = (fields.get(f"HugePages_{kind}", "0") for kind in ("Total", "Free"))
    return Finding("huge pages", Level.OK, f"{free} of {total} free; none are needed")


def _problem(subject: str, error: HostError) -> Finding:
    return Finding(subject, Level.PROBLEM, error.message, error.hint)


CHECKS: Final[tuple[Callable[[], Finding], ...]] = (
    check_qemu,
    check_qemu_img,
    check_kvm,
    check_firecracker,
    check_cloud_hypervisor,
    check_host_vsock,
    check_nested,
    check_namespaces,
    check_networks,
    check_image_building,
    check_room,
    check_huge_pages,
)
"""All checks, in the order in which their findings are worth reading."""
