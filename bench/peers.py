"""Others that boot a machine, run a command in it and end: on the same kernel, in the same run.

- attest: a Debian machine, cold and from its snapshot;
- QEMU and SSH, as testers do by hand: the same kernel and packages with OpenSSH, a port forwarded,
  and `ssh` tried until it answers;
- virtme-ng, from the Python Package Index: Debian's other kernel of the same version, with the
  host's files as its root.

Usage: ``python -m bench.peers [--runs N]``, by default 3 of each in turn. A peer that cannot run
here is left out, with the reason.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.support.paths import cache_dir
from attest.vmm.qemu.binary import find_qemu
from bench import record
from bench.runs import Home, home, timed

_VIRTME = "virtme-ng==1.42"
_MANIFEST = Path(__file__).parent / "answers" / "test.toml"
_SSH_RECIPE = Path(__file__).parent / "answers" / "ssh.toml"
_GENERIC = Path(__file__).parents[1] / "tools" / "backdoor" / "backdoor.toml"
_TRY = 0.2
"""Seconds between two tries of `ssh`."""


@dataclass(frozen=True)
class Peer:
    """One of those compared.

    Attributes:
        name: For the table.
        version: Its version.
        command: What is run, for people to try.
        run: Runs it, and returns the seconds it took.
    """

    name: str
    version: str
    command: str
    run: Callable[[], float]


class Absent(Exception):
    """A peer cannot run here; the text says why."""


def _attest(own: Home, *options: str) -> Peer:
    command = ["run", "--accel", "tcg", *options, str(_MANIFEST)]
    return Peer(
        f"attest {' '.join(options)}".strip(),
        str(record.host()["attest"]),
        shlex.join(["attest", *command]),
        lambda: timed([sys.executable, "-m", "attest", *command], own.environment).wall,
    )


def _ssh(_directory: Path) -> Peer:
    if shutil.which("ssh") is None:
        raise Absent("`ssh` was not found: apt-get install openssh-client")
    image = ImageStore().build(load_recipe(str(_SSH_RECIPE)), progress=print)
    version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True)
    return Peer(
        "QEMU and SSH", f"{find_qemu()}, {version.stderr.strip()}",
        shlex.join(_qemu(image, 2222)), lambda: _by_ssh(image),
    )  # fmt: skip


def _qemu(image: Image, port: int) -> list[str]:
    return [
        str(find_qemu().path), "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512",
        "-display", "none", "-serial", "null", "-monitor", "none",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", "attest.root=root console=ttyS0 quiet net.ifnames=0 backdoor.nodes=",
        "-drive", f"file={image.root},if=none,id=root,format=raw,readonly=on",
        "-device", "virtio-blk-pci,drive=root,serial=root",
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=net",
    ]  # fmt: skip


def _by_ssh(image: Image) -> float:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ssh = [
        "ssh", "-p", str(port), "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
        "-o", "ConnectTimeout=5", "root@127.0.0.1", "true",
    ]  # fmt: skip
    begun = time.monotonic()
    with subprocess.Popen(_qemu(image, port)) as qemu:
        try:
            while subprocess.run(ssh, stderr=subprocess.DEVNULL, check=False).returncode != 0:
                if qemu.poll() is not None:
                    sys.exit(f"QEMU ended with {qemu.returncode}")
                time.sleep(_TRY)
        finally:
            qemu.kill()
    return time.monotonic() - begun


def _virtme(directory: Path) -> Peer:
    place = directory / "virtme"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python, vng = place / "bin" / "python", place / "bin" / "vng"
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", _VIRTME], check=False)
    if installed.returncode != 0:
        raise Absent(f"{_VIRTME} could not be installed")
    kernel = _installed_kernel(place)
    _add_busybox(place / "bin")
    command = [str(vng), "--verbose", "--run", str(kernel), "--disable-kvm", "--force-9p",
               "--memory", "512M", "--cpus", "1", "--exec", "true"]  # fmt: skip
    env = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    _by_virtme(command, env)
    version = subprocess.run(
        [vng, "--version"], env=env, capture_output=True, text=True, check=True
    )
    return Peer("virtme-ng", version.stdout.strip(), shlex.join(command),
                lambda: _by_virtme(command, env))  # fmt: skip


def _installed_kernel(place: Path) -> Path:
    """A kernel with 9p, which the cloud flavour lacks, and its modules, as if installed there."""
    image = ImageStore().build(load_recipe(str(_GENERIC)), progress=print)
    root = place / "root"
    root.mkdir()
    subprocess.run(
        ["debugfs", "-R", f"rdump / {root}", str(image.root)], check=True, stderr=subprocess.DEVNULL
    )
    kernel = root / "boot" / f"vmlinuz-{image.kernel_version}"
    shutil.copy(image.kernel, kernel)
    return kernel


def _add_busybox(programs: Path) -> None:
    """virtme-ng makes its initramfs of a static one."""
    if shutil.which("busybox"):
        return
    ImageStore().build(load_recipe("tiny"))
    packages = sorted((cache_dir() / "images" / "packages").glob("busybox-static_*.deb"))
    if not packages:
        raise Absent("`busybox` was not found: apt-get install busybox-static")
    with tempfile.TemporaryDirectory() as unpacked:
        subprocess.run(["dpkg-deb", "-x", packages[-1], unpacked], check=True)
        shutil.copy(next(Path(unpacked).rglob("bin/busybox")), programs)


def _by_virtme(command: list[str], env: dict[str, str]) -> float:
    begun = time.monotonic()
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )  # fmt: skip
    seconds = time.monotonic() - begun
    # It ends with 255 where the host's root has no udev to load the module of its serial ports.
    if "script exited with code 0" not in done.stdout:
        said = done.stdout.strip().splitlines()
        raise Absent(f"exit code {done.returncode}: {said[-1] if said else 'it said nothing'}")
    return seconds


def main() -> None:
    """Print the table, and write a record."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/peers.json"))
    options = parser.parse_args()
    with home() as own, tempfile.TemporaryDirectory(dir=cache_dir()) as directory:
        peers = [_attest(own), _attest(own, "--cold")]
        peers[0].run()  # makes the snapshot
        for make in (_ssh, _virtme):
            try:
                peers.append(make(Path(directory)))
            except Absent as reason:
                print(f"left out: {make.__name__.strip('_')}: {reason}")
        seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for _ in range(options.runs):
            for peer in peers:
                seconds[peer.name].append(peer.run())
    warm = statistics.median(seconds["attest"])
    ratios = {}
    print(f"\n{'boot, run `true`, end':24}  {'seconds':>8}  {'to attest':>9}")
    for peer in peers:
        median = statistics.median(seconds[peer.name])
        ratios[f"{peer.name}/attest"] = median / warm
        print(f"{peer.name:24}  {median:8.2f}  {median / warm:9.1f}")
    for peer in peers:
        print(f"\n{peer.name}: {peer.version}\n  {peer.command}")
    record.write(options.out, seconds, ratios)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
