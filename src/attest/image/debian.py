"""Roots and kernels from Debian packages.

mmdebstrap does the work; which servers the packages come from is its decision and that of the
host's apt configuration. The kernel's package is unpacked, not installed: installed it would bring
a generator of initrds and run it.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from attest.image.build_space import BuildSpace
from attest.image.recipe import Recipe

__all__ = ["bootstrap_root", "fetch_packages", "finish_root"]

_PACKAGES: Final = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod",
    "iproute2", "iputils-ping", "netcat-openbsd", "procps", "curl",
)  # fmt: skip
"""Packages that are installed beyond those that every Debian system has."""

_MASKED: Final = (
    # A fresh guest has nothing for these to look after.
    "apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "man-db.timer", "systemd-tmpfiles-clean.timer",
    # No state outlives the guest.
    "systemd-pstore.service", "systemd-random-seed.service", "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service", "systemd-journal-flush.service",
    "systemd-remount-fs.service",
    # What they make is in the image.
    "ldconfig.service", "systemd-firstboot.service", "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service", "systemd-machine-id-commit.service",
    "systemd-sysusers.service", "systemd-update-done.service",
    "systemd-udev-load-credentials.service",
    # The agent is the way in, and the console is for messages.
    "console-getty.service", "getty@.service", "getty-static.service", "serial-getty@.service",
    "systemd-logind.service", "systemd-user-sessions.service",
    # The agent sets addresses and clock.
    "systemd-networkd.service", "systemd-networkd-wait-online.service", "systemd-timesyncd.service",
    # The initrd has loaded what a guest needs.
    "modprobe@.service", "dev-hugepages.mount", "dev-mqueue.mount",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
)  # fmt: skip

_MASKED_GENERATORS: Final = (
    "systemd-bless-boot-generator", "systemd-cryptsetup-generator", "systemd-getty-generator",
    "systemd-gpt-auto-generator", "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator", "systemd-rc-local-generator",
    "systemd-system-update-generator", "systemd-veritysetup-generator",
)  # fmt: skip
"""Each is a process at every boot, and none finds anything to do."""

_SLIM: Final = """
# Documentation is a third of the files. (dpkg can leave it out, but slows mmdebstrap down.)
find /usr/share/doc ! -type d ! -name copyright -delete
find /usr/share/man /usr/share/locale ! -type d -delete
# A link to an empty list, for which a process would start.
rm -f /etc/modules-load.d/modules.conf
# Its socket starts it when it is wanted.
rm -f /lib/systemd/system/multi-user.target.wants/dbus.service
# Only a real root can make device nodes; the guest's kernel makes its own.
find /dev -mindepth 1 -delete
"""

_BLACKLISTED: Final = (
    "aesni_intel", "button", "cirrus", "crc32_pclmul", "crc32c_intel", "crct10dif_pclmul",
    "cryptd", "evdev", "ghash_clmulni_intel", "i2c_piix4", "intel_rapl_msr", "intel_rapl_common",
    "joydev", "pcspkr", "psmouse", "qemu_fw_cfg", "serio_raw",
    "sha1_ssse3", "sha256_ssse3", "sha512_ssse3", "sg",
)  # fmt: skip
"""Modules that udev would load for an emulated machine: a second's work at boot, for nothing."""

_COLDPLUG: Final = """\
# A third of the events: without modules and buses, for which there are no rules, and without
# the 64 virtual terminals, which nobody sees.
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add \\
    --subsystem-nomatch=tty --subsystem-nomatch=vc --subsystem-nomatch=workqueue
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=tty \\
    --sysname-match=ttyS* --sysname-match=hvc*
"""

_CONFIGURATION: Final = {
    "/etc/fstab": "",
    "/etc/hostname": "debian\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "/etc/machine-id": "",
    "/etc/modprobe.d/attest.conf": "".join(f"blacklist {name}\n" for name in _BLACKLISTED),
    "/etc/resolv.conf": "",
    "/etc/systemd/journald.conf.d/attest.conf": "[Journal]\nStorage=volatile\n",
    "/etc/systemd/system/systemd-udev-trigger.service.d/attest.conf": _COLDPLUG,
    "/etc/tmpfiles.d/systemd-nologin.conf": "",  # nobody logs in before the boot has ended
}

_FETCH: Final = """#!/bin/sh
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$1/var/cache/apt/archives"
fetch() {
  file=$(cd / && apt-get download --print-uris "$1" | cut -d" " -f2)  # says nothing of what is here
  apt-get --quiet download "$1"
  dpkg-deb --extract "$file" "$2"
}
# A kernel's package is mostly an empty one that depends on the package of the version.
kernel=$(apt-cache depends "$KERNEL" | sed -n "s/^  Depends: \\(linux-image-[0-9].*\\)/\\1/p")
fetch "${kernel:-$KERNEL}" "$WORK/kernel"
for package in $EXTRA; do fetch "$package" "$WORK/$package"; done
ln -f *.deb "$CACHE"
"""
_OFFER_CACHED: Final = """#!/bin/sh
set -eu
mkdir -p "$1/var/cache/apt/archives"
find "$CACHE" -name "*.deb" -exec ln -t "$1/var/cache/apt/archives" {} +
"""

_CHROOT: Final = """
set -eu
for place in dev proc sys; do mount --rbind "/$place" "$1/$place"; done
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
[ ! -e /etc/resolv.conf ] || mount --bind /etc/resolv.conf "$1/etc/resolv.conf"
exec chroot "$1" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \\
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -euc "$2"
"""


def bootstrap_root(recipe: Recipe, work: Path, cache: Path, space: BuildSpace) -> None:
    """Make ``work/root`` from packages and unpack the kernel's into ``work/kernel``."""
    packages = ",".join((*_PACKAGES, *recipe.packages))
    space.progress(f"bootstrapping {recipe.suite} ({recipe.dpkg_arch})")
    _mmdebstrap(
        recipe, work, cache, space,
        # Without the hook, older suites install all of Perl to merge /usr.
        ["--variant=minbase", "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
         f"--include={packages}", "--dpkgopt=force-unsafe-io"],
    )  # fmt: skip


def fetch_packages(
    recipe: Recipe, packages: Sequence[str], work: Path, cache: Path, space: BuildSpace
) -> None:
    """Unpack the kernel's package into ``work/kernel``, each other one into ``work/NAME``."""
    space.progress(f"fetching packages of {recipe.suite} ({recipe.dpkg_arch})")
    _mmdebstrap(recipe, work, cache, space, ["--variant=custom"], extra=packages)


def _mmdebstrap(
    recipe: Recipe,
    work: Path,
    cache: Path,
    space: BuildSpace,
    arguments: list[str],
    extra: Sequence[str] = (),
) -> None:
    variables = {
        "CACHE": str(cache), "WORK": str(work), "KERNEL": recipe.kernel, "EXTRA": " ".join(extra),
        # Any fixed day but the first, which /etc/shadow takes for an expired password.
        "SOURCE_DATE_EPOCH": "1672531200",
    }  # fmt: skip
    # The packages stay until they are in the cache; /sys cannot be mounted in a user namespace.
    space.run(
        f"bootstrapping {recipe.suite}",
        ["mmdebstrap", "--mode=root", "--format=directory", f"--architectures={recipe.dpkg_arch}",
         "--skip=essential/unlink,chroot/mount/sys", *arguments,
         f"--setup-hook={_script(work / 'offer-cached', _OFFER_CACHED)}",
         f"--customize-hook={_script(work / 'fetch', _FETCH)}",
         recipe.suite, str(work / "root")],
        env=variables,
    )  # fmt: skip


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def finish_root(recipe: Recipe, root: Path, space: BuildSpace) -> None:
    """Put configuration, masks and the recipe's files into a root; then run its commands."""
    space.progress("configuring")
    with tempfile.TemporaryFile() as archive:
        _write_overlay(recipe, archive)
        archive.seek(0)
        # Unpacked inside, so that no link of the root leads out of it.
        space.run(
            "adding files",
            ["chroot", str(root), "tar", "-x", "-C", "/", "--keep-directory-symlink"],
            stdin=archive,
        )
    space.run("removing files", ["chroot", str(root), "sh", "-euc", _SLIM])
    for command in recipe.run:
        space.progress(f"running `{command.splitlines()[0]}`")
        space.run(f"`{command}`", ["sh", "-c", _CHROOT, "chroot", str(root), command])


def _write_overlay(recipe: Recipe, stream: IO[bytes]) -> None:
    contents = {path: (text.encode(), 0o644) for path, text in _CONFIGURATION.items()}
    contents |= {file.path: (file.content, file.mode) for file in recipe.files}
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, target in _links(recipe):
            link = tarfile.TarInfo(f"etc/systemd/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for path, (content, mode) in contents.items():
            file = tarfile.TarInfo(path.strip("/"))
            file.size, file.mode = len(content), mode
            archive.addfile(file, io.BytesIO(content))


def _links(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "system/default.target", "/lib/systemd/system/multi-user.target"
    for unit in (*_MASKED, *recipe.mask):
        yield f"system/{unit}", "/dev/null"
    for generator in _MASKED_GENERATORS:
        yield f"system-generators/{generator}", "/dev/null"
