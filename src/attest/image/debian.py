"""What the base `debian` is: its packages, and how it is configured."""

from __future__ import annotations

from typing import Final

__all__ = ["CONFIGURATION", "LINKS", "PACKAGES", "SLIM_DOCUMENTATION", "SLIM_SYSTEM"]

PACKAGES: Final = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod",
    "iproute2", "iputils-ping", "netcat-openbsd", "procps", "curl",
)  # fmt: skip
"""Packages that are installed beyond those that every Debian system has."""

_MASKED: Final = (
    # A fresh guest has nothing for these to look after.
    "apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "man-db.timer", "systemd-tmpfiles-clean.timer",
    # What they keep over a reboot is of no use to a test.
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
    # The initrd has made the static device nodes, and systemd-tmpfiles-setup.service does the rest.
    "kmod-static-nodes.service", "systemd-tmpfiles-setup-dev.service",
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

SLIM_DOCUMENTATION: Final = """
# Documentation is a third of the files. (dpkg can leave it out, but slows mmdebstrap down.)
find /usr/share/doc ! -type d ! -name copyright -delete
find /usr/share/man /usr/share/locale ! -type d -delete
"""

SLIM_SYSTEM: Final = """
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

_NO_RULES: Final = (
    "60-autosuspend", "60-cdrom_id", "60-fido-id", "60-infiniband", "60-persistent-alsa",
    "60-persistent-storage-tape", "60-persistent-v4l", "60-sensor", "70-camera", "70-joystick",
    "70-memory", "75-probe_mtd", "78-sound-card", "85-hwclock",
)  # fmt: skip
"""Rules of udev for devices that no machine has; keyboards and mice come with a display."""

_COLDPLUG: Final = """\
# Fewer events, and a shell that is there in a moment: without devices for which there are
# no rules, and without the 64 virtual terminals, which nobody sees.
[Service]
ExecStart=
ExecStart=-/bin/sh -c '\\
    for each in /sys/class/*/*/uevent /sys/bus/*/devices/*/uevent; do \\
        case $$each in \\
        /sys/class/tty/ttyS*|/sys/class/tty/hvc*) ;; \\
        /sys/class/tty/*|/sys/class/vc/*|/sys/class/vtconsole/*|/sys/class/mem/*) continue ;; \\
        /sys/class/bdi/*|/sys/class/wakeup/*) continue ;; \\
        /sys/bus/acpi/*|/sys/bus/clockevents/*|/sys/bus/clocksource/*|/sys/bus/cpu/*) continue ;; \\
        /sys/bus/event_source/*|/sys/bus/memory/*|/sys/bus/memory_tiering/*) continue ;; \\
        /sys/bus/node/*|/sys/bus/workqueue/*) continue ;; \\
        /sys/class/misc/autofs/*|/sys/class/misc/cpu_dma_latency/*) continue ;; \\
        /sys/class/misc/snapshot/*|/sys/class/misc/vga_arbiter/*) continue ;; \\
        /sys/bus/platform/devices/LNRO0005:*|/sys/bus/platform/devices/ACPI0013:*) continue ;; \\
        /sys/bus/platform/devices/alarmtimer*|/sys/bus/platform/devices/serial8250/*) continue ;; \\
        esac; \\
        echo add >"$$each"; \\
    done 2>/dev/null'
"""

_UNCONFINED: Final = """\
# systemd's own daemons need no cage here: its filters take longer to make than they to start.
[Service]
SystemCallFilter=
SystemCallArchitectures=
RestrictAddressFamilies=
RestrictNamespaces=no
RestrictRealtime=no
RestrictSUIDSGID=no
MemoryDenyWriteExecute=no
LockPersonality=no
ProtectClock=no
ProtectHostname=no
IPAddressDeny=
DeviceAllow=
"""

_LATE: Final = """\
# Its events, which no service of the boot waits for, come after the journal.
[Unit]
After=systemd-journald.service systemd-sysctl.service
"""

# Credentials are mounted for each of them by a process of its own, and there are none.
_SYSCTL: Final = """\
[Service]
LoadCredential=
"""
_TMPFILES: Final = """\
# /dev is not left to a process of its own.
[Service]
LoadCredential=
ExecStart=
ExecStart=systemd-tmpfiles --create --remove --boot
"""

CONFIGURATION: Final = {
    "/etc/fstab": "",
    "/etc/hostname": "debian\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "/etc/machine-id": "",
    "/etc/modprobe.d/attest.conf": "".join(f"blacklist {name}\n" for name in _BLACKLISTED),
    "/etc/resolv.conf": "",
    "/etc/systemd/journald.conf.d/attest.conf": "[Journal]\nStorage=volatile\n",
    "/etc/systemd/system/systemd-journald.service.d/attest.conf": _UNCONFINED,
    "/etc/systemd/system/systemd-sysctl.service.d/attest.conf": _SYSCTL,
    "/etc/systemd/system/systemd-tmpfiles-setup.service.d/attest.conf": _TMPFILES,
    "/etc/systemd/system/systemd-udev-trigger.service.d/attest.conf": _COLDPLUG,
    "/etc/systemd/system/systemd-udevd.service.d/attest.conf": _LATE + _UNCONFINED,
    "/etc/tmpfiles.d/systemd-nologin.conf": "",  # nobody logs in before the boot has ended
}
"""Text files, by path."""

LINKS: Final = {
    "/etc/systemd/system/default.target": "/lib/systemd/system/multi-user.target",
    **{f"/etc/systemd/system/{unit}": "/dev/null" for unit in _MASKED},
    **{f"/etc/udev/rules.d/{name}.rules": "/dev/null" for name in _NO_RULES},
    **{f"/etc/systemd/system-generators/{name}": "/dev/null" for name in _MASKED_GENERATORS},
}
"""Symbolic links: where they are, and where to."""
