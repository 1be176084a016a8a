"""Others that boot machines, run a command in each and end: on the same kernel, in the same run.

With one machine:

- attest: a Debian machine, cold and from its snapshot;
- NixOS's driver, of the directory that is given, with its start script for the same guest;
- QEMU and SSH, as testers do by hand: the same kernel and packages with OpenSSH, a port forwarded,
  and `ssh` tried until it answers;
- virtme-ng, from the Python Package Index: Debian's other kernel of the same version, with the
  host's files as its root;
- vmtest, where it is: the same kernel, with a directory of Debian's files as its root.

With four machines: attest, and NixOS's driver.

Usage: ``python -m bench.peers [--runs N] [--vmtest PROGRAM]``, by default 3 of each, after a
first one; ``PYTHONPATH=tools python -m bench.peers --nixos-driver DIR`` with NixOS's driver. A peer
that cannot run here is left out, with the reason.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.support.paths import cache_dir
from attest.vmm.qemu.binary import find_qemu
from bench import record, vmtest
from bench.runs import Home, build_images, home, timed

_VIRTME = "virtme-ng==1.42"
_ANSWERS = Path(__file__).parent / "answers"
_WORKLOAD = Path(__file__).parent / "workloads" / "peers"
_MANIFESTS = {1: _WORKLOAD / "one.toml", 4: _WORKLOAD / "four.toml"}
_SSH_RECIPE = _ANSWERS / "ssh.toml"
_VMTEST_RECIPE = _ANSWERS / "vmtest.toml"
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
        forget: Makes its next run a first one.
    """

    name: str
    version: str
    command: str
    run: Callable[[], float]
    forget: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Times:
    """Seconds of whole processes.

    Attributes:
        first: Of the first run; attest has no snapshots yet.
        later: Of all later ones.
    """

    first: float
    later: Sequence[float]

    @property
    def median(self) -> float:
        """Of the later ones."""
        return statistics.median(self.later)


class Absent(Exception):
    """A peer cannot run here; the text says why."""


def _attest(own: Home, manifest: Path, *options: str) -> Peer:
    command = ["run", "--accel", "tcg", *options, str(manifest)]
    return Peer(
        f"attest {' '.join(options)}".strip(),
        str(record.host()["attest"]),
        shlex.join(["attest", *command]),
        lambda: timed([sys.executable, "-m", "attest", *command], own.environment).wall,
        own.forget_snapshots,
    )


def _nixos(checkout: Path | None, manifest: Path) -> Peer:
    if checkout is None:
        raise Absent("--nixos-driver names nixos/lib/test-driver of a nixpkgs")
    from bench.nixos import Nixos  # which needs `tools` on PYTHONPATH

    driver = Nixos(checkout)
    version = checkout.resolve().parents[2] / "lib" / ".version"
    return Peer(
        "NixOS's driver", version.read_text().strip() if version.exists() else "unknown",
        "nixos-test-driver --config CONFIG -o DIR", lambda: driver.run(manifest).wall,
    )  # fmt: skip


def _ssh() -> Peer:
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
    if shutil.which("busybox") is None:
        shutil.copy(_busybox(place), place / "bin")
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
    root = _files_of(image, place / "root")
    kernel = root / "boot" / f"vmlinuz-{image.kernel_version}"
    shutil.copy(image.kernel, kernel)
    return kernel


def _files_of(image: Image, root: Path) -> Path:
    root.mkdir(parents=True)
    subprocess.run(
        ["debugfs", "-R", f"rdump / {root}", str(image.root)], check=True, stderr=subprocess.DEVNULL
    )
    return root


def _busybox(place: Path) -> Path:
    """A static one, which who makes an initramfs needs."""
    if found := shutil.which("busybox"):
        return Path(found)
    ImageStore().build(load_recipe("tiny"))
    packages = sorted((cache_dir() / "images" / "packages").glob("busybox-static_*.deb"))
    if not packages:
        raise Absent("`busybox` was not found: apt-get install busybox-static")
    unpacked = place / "busybox"
    subprocess.run(["dpkg-deb", "-x", packages[-1], unpacked], check=True)
    return next(unpacked.rglob("bin/busybox"))


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


def _vmtest(directory: Path, program: str) -> Peer:
    found = shutil.which(program)
    if found is None:
        raise Absent(f"`{program}` was not found: cargo install vmtest, or --vmtest names it")
    place = directory / "vmtest"
    image = ImageStore().build(load_recipe(str(_VMTEST_RECIPE)), progress=print)
    root = _files_of(image, place / "root")
    command = [found, "--config", str(vmtest.prepare(place, image, root, _busybox(place)))]
    return Peer("vmtest", vmtest.version(found), shlex.join(command),
                lambda: timed(command, vmtest.environment(place)).wall)  # fmt: skip


def _with_one(own: Home, directory: Path, options: argparse.Namespace) -> list[Peer]:
    manifest = _MANIFESTS[1]
    peers = [_attest(own, manifest), _attest(own, manifest, "--cold")]
    makes: dict[str, Callable[[], Peer]] = {
        "NixOS's driver": lambda: _nixos(options.nixos_driver, manifest),
        "QEMU and SSH": _ssh,
        "virtme-ng": lambda: _virtme(directory),
        "vmtest": lambda: _vmtest(directory, options.vmtest),
    }
    return peers + _those_here(makes)


def _with_four(own: Home, options: argparse.Namespace) -> list[Peer]:
    manifest = _MANIFESTS[4]
    peers = [_attest(own, manifest), _attest(own, manifest, "--cold")]
    return peers + _those_here({"NixOS's driver": lambda: _nixos(options.nixos_driver, manifest)})


def _those_here(makes: Mapping[str, Callable[[], Peer]]) -> list[Peer]:
    peers = []
    for name, make in makes.items():
        try:
            peers.append(make())
        except Absent as reason:
            print(f"left out: {name}: {reason}")
    return peers


def _measure(peers: Sequence[Peer], runs: int) -> dict[str, Times]:
    first = {}
    for peer in peers:
        peer.forget()
        first[peer.name] = peer.run()
        print(f"{peer.name}, first: {first[peer.name]:.1f} s", file=sys.stderr)
    later: dict[str, list[float]] = {peer.name: [] for peer in peers}
    peers[0].run()  # another may have made it forget
    for _ in range(runs):
        for peer in peers:
            later[peer.name].append(peer.run())
            print(f"{peer.name}: {later[peer.name][-1]:.1f} s", file=sys.stderr)
    return {name: Times(first[name], later[name]) for name in first}


def _table(machines: int, times: Mapping[str, Times]) -> list[str]:
    warm = times["attest"].median
    title = f"{machines} {'machine' if machines == 1 else 'machines'}, seconds"
    lines = [f"{title:24}  {'first':>8}  {'later':>8}  {'to attest':>9}"]
    for name, each in times.items():
        cells = f"{each.first:8.2f}  {each.median:8.2f}  {each.median / warm:9.1f}"
        lines.append(f"{name:24}  {cells}")
    return lines


def main() -> None:
    """Print the tables, and write a record."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nixos-driver", type=Path, metavar="DIR",
                        help="nixos/lib/test-driver of a nixpkgs")  # fmt: skip
    parser.add_argument("--vmtest", metavar="PROGRAM", default="vmtest", help="default: on PATH")
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/peers.json"))
    options = parser.parse_args()
    for manifest in _MANIFESTS.values():
        build_images(manifest)
    with home() as own, tempfile.TemporaryDirectory(dir=cache_dir()) as directory:
        peers = {1: _with_one(own, Path(directory), options), 4: _with_four(own, options)}
        times = {count: _measure(each, options.runs) for count, each in peers.items()}
    for count, of in times.items():
        print("", *_table(count, of), sep="\n")
    for each in peers[1]:
        print(f"\n{each.name}: {each.version}\n  {each.command}")
    ratios = {
        f"{count}: {name}/attest": each.median / of["attest"].median
        for count, of in times.items()
        for name, each in of.items()
    }
    figures = {
        str(count): {name: asdict(each) for name, each in of.items()} for count, of in times.items()
    }
    record.write(options.out, figures, ratios)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
