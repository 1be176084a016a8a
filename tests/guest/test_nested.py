"""Machines in which KVM works: booted, cloned, and saved while a guest runs in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import ManifestError
from attest.machine.machine import Machine
from attest.vmm.base import SaveError
from attest.vmm.qemu import migration
from attest.vmm.qemu.nested import RAN_A_GUEST
from attest.vmm.qemu.qmp import Qmp

pytestmark = pytest.mark.timeout(600)  # the first run builds images

_IMAGE = Path(__file__).parents[2] / "examples/nested/nested.toml"

_QEMU = (
    "qemu-system-x86_64 -accel kvm -cpu host -machine microvm,rtc=on -m 128 -nodefaults "
    "-display none -no-reboot -serial stdio -kernel /vmlinuz "
    "-append 'console=ttyS0 quiet reboot=t'"
)

_IOCTLS = """perl -e '
    open my $kvm, "+<", "/dev/kvm" or die "open: $!";
    printf "version %d\\n", ioctl($kvm, 0xAE00, 0);
    print "machine\\n" if ioctl($kvm, 0xAE01, 0) or die "KVM_CREATE_VM: $!";
'"""

_HEART = """#!/busybox sh
while beat=$((beat + 1)); do
    echo "beat $beat"
    /busybox sleep 1
done
"""


def nested(image: Path | str, *, cold: bool = False) -> Cluster:
    node = {"image": str(image), "memory": 1024, "nested": True}
    return Cluster({"nodes": {"host": node}}, accelerator="tcg", cold=cold)


@pytest.fixture
def host() -> Iterator[Machine]:
    """A clone of a nested machine."""
    with nested(_IMAGE) as cluster:
        yield cluster["host"]


def has_kvm(machine: Machine) -> bool:
    machine.succeed("test -c /dev/vhost-vsock && test -c /dev/net/tun")
    return machine.succeed(_IOCTLS) == "version 12\nmachine\n"


def run_guest(machine: Machine) -> str:
    """The console of a guest that runs to its end."""
    return machine.succeed(f"{_QEMU} -initrd /srv/initrd < /dev/null")


@pytest.mark.parametrize("cold", [True, False], ids=["booted", "cloned"])
def test_a_guest_boots_under_kvm(cold: bool) -> None:
    with nested(_IMAGE, cold=cold) as cluster:
        assert has_kvm(cluster["host"])
        console = run_guest(cluster["host"])
        assert "the inner guest runs Linux 6." in console
        assert cluster["host"].succeed("systemctl --failed --no-legend") == ""


def test_qemu_has_nothing_to_say_of_its_processor(host: Machine) -> None:
    host.connect()
    host.crash()
    assert host._lifecycle.vmm.exit is not None
    assert host._lifecycle.vmm.exit.stderr == ""


def test_a_guest_goes_on_in_snapshots_and_clones_of_its_host(host: Machine) -> None:
    host.succeed(f"cat > /srv/inner/init <<'EOF'\n{_HEART}EOF")
    host.succeed("cd /srv/inner && find . | cpio -o -H newc > /srv/heart")
    host.succeed(f"{_QEMU} -initrd /srv/heart < /dev/null > /srv/console 2>&1 &")
    host.wait_until_succeeds("grep -q beat /srv/console", timeout=60)
    snapshot = host.snapshot("beating")
    host.restore(snapshot)
    for machine in (host, *snapshot.clone(2)):
        machine.succeed("cp /srv/console /srv/then; pgrep qemu")
        machine.wait_until_succeeds(
            'test "$(grep -c beat /srv/console)" -gt "$(($(grep -c beat /srv/then) + 2))"',
            timeout=60,
        )
        assert machine.succeed("grep -c 'beat 1\\b' /srv/console") == "1\n"  # it is the same boot


def test_a_snapshot_that_would_not_load_is_taken_again(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def load(qmp: Qmp, version: tuple[int, ...], state: Path, *, memory: bool) -> None:
        if not refused:
            refused.append(state.read_bytes()[:4].decode())
            raise SaveError(f"QEMU ended: {RAN_A_GUEST} with migrated kernel nested state")
        migration_load(qmp, version, state, memory=memory)

    migration_load = migration.load
    host.connect()  # it is itself loaded from a snapshot
    monkeypatch.setattr(migration, "load", load)
    host.restore(host.snapshot("again"))
    assert refused == ["QEVM"]
    assert host.succeed("echo alive") == "alive\n"


def test_the_generic_kernel_has_kvm_too(tmp_path: Path) -> None:
    (tmp_path / "generic.toml").write_text('base = "debian"\nkernel = "linux-image-amd64"\n')
    with nested(tmp_path / "generic.toml", cold=True) as cluster:
        assert "cloud" not in cluster["host"].succeed("uname -r")
        assert has_kvm(cluster["host"])


def test_other_machines_have_none(machine: Machine) -> None:
    machine.fail("test -e /dev/kvm || lsmod | grep -q ^kvm")


def test_an_image_without_a_root_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"nodes\.host\.nested: image tiny has no KVM"):
        nested("tiny").open()
