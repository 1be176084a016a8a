"""Start scripts in the form of NixOS's ``run-NAME-vm``, for a guest with a backdoor shell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.emulation import KERNEL_ARGUMENTS, processor_features

_RECIPE = Path(__file__).parent / "backdoor" / "backdoor.toml"

_SCRIPT = """\
#!/bin/sh
set -e
if [ -z "$TMPDIR" ] || [ -z "$USE_TMPDIR" ]; then
    TMPDIR=$(mktemp -d nix-vm.XXXXXXXXXX --tmpdir)
fi
mkdir -p "$TMPDIR/xchg"
cd "$TMPDIR"
test -e disk.qcow2 || qemu-img create -f qcow2 disk.qcow2 16M
# A driver ends what it started, which is the shell around this script.
exec setpriv --pdeathsig TERM {qemu} -machine accel=tcg -cpu max{features} \\
    -name {name} -m {memory} -smp 1 \\
    -net nic,netdev=user.0,model=virtio -netdev user,id=user.0,"$QEMU_NET_OPTS" \\
    {cards} \\
    {share} \\
    -drive file={root},if=none,id=root,format=raw,readonly=on \\
    -device virtio-blk-pci,drive=root,serial=root \\
    -drive file=disk.qcow2,if=none,id=disk,format=qcow2 \\
    -device virtio-blk-pci,drive=disk,serial=disk \\
    -kernel {kernel} -initrd {initrd} \\
    -append "console=ttyS0 loglevel=6 panic=1 net.ifnames=0 attest.root=root \\
        systemd.hostname={name} backdoor.nodes={nodes} {arguments} $QEMU_KERNEL_PARAMS" \\
    $QEMU_OPTS "$@"
"""

_VDE = (
    '-netdev vde,id=vlan{vlan},sock="$QEMU_VDE_SOCKET_{vlan}"'
    " -device virtio-net-pci,netdev=vlan{vlan},mac=52:54:00:12:{vlan:02x}:{number:02x}"
)
_SHARE = '-virtfs local,path="${SHARED_DIR:-$TMPDIR/xchg}",security_model=none,mount_tag=shared'


def image(recipe: Path = _RECIPE) -> Image:
    """The guest."""
    return ImageStore().build(load_recipe(str(recipe)))


def write(
    directory: Path,
    name: str,
    number: int = 1,
    vlans: Sequence[int] = (),
    *,
    share: bool = True,
    guest: Image | None = None,
    memory: int = 512,
    nodes: Sequence[str] = (),
    tuned: bool = True,
) -> Path:
    """Write ``run-NAME-vm``.

    Args:
        directory: Where.
        name: The machine's name.
        number: Its number, which its addresses end with.
        vlans: The networks that it is on, by VDE.
        share: It shares a directory with the host.
        guest: What it boots; default: the image beside this file.
        memory: In MiB.
        nodes: The names of all machines, in the order of their numbers, for its hosts file.
        tuned: It has what makes attest's own machines faster under emulation.
    """
    guest = guest or image()
    script = directory / f"run-{name}-vm"
    script.write_text(
        _SCRIPT.format(
            qemu=find_qemu().path,
            features=processor_features(find_qemu().version) if tuned else "",
            arguments=KERNEL_ARGUMENTS if tuned else "",
            name=name,
            memory=memory,
            nodes=",".join(nodes),
            root=guest.root,
            kernel=guest.kernel,
            initrd=guest.initrd,
            share=_SHARE if share else "",
            cards=" ".join(_VDE.format(vlan=vlan, number=number) for vlan in vlans),
        )
    )
    script.chmod(0o755)
    return script
