"""The shape of a machine: all that decides what its snapshot holds, but for its identity.

QEMU checks little of this when it loads a snapshot. With another CPU model, an extra device or
another kind of mapping the machine loads without a word and never answers, so each is part of the
key.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from attest.vmm.qemu.tsc import tsc_khz

__all__ = ["Shape", "host_cpu"]

_FORMAT: Final = 8
"""Raised when attest makes snapshots in another way; older ones are not found any more."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one shape differ by their identity alone, so one snapshot serves them all.

    Attributes:
        image: The image's digest, which covers kernel, initrd, agent, command line and root.
        image_name: Its name, for people.
        vmm: The VMM's path, version, size and time of change.
        accelerator: ``"kvm"`` or ``"tcg"``.
        cpu: The host's processor, with the rate of its time-stamp counter.
        cpu_model: The machine's processor, as the VMM is told.
        machine: Machine type.
        memory: MiB.
        vcpus: Virtual CPUs.
        nics: Number of network cards.
        disks: What each declared disk holds at first.
        hugepages: The memory is on huge pages.
        channel: How the agent is reached, where that is not the VMM's own way.
        balloon: It has a balloon.
        graphics: It has a display.
        macs: The addresses of its network cards, where nobody tells the machine others.
        warm_until: The unit that was active when the snapshot was made.
        files: What had been copied into it: each path, and a digest of what is there.
        warm_steps: The commands that had run.
        format: How attest made it.
    """

    image: str
    image_name: str
    vmm: str
    accelerator: str
    cpu: str
    machine: str
    memory: int
    vcpus: int
    nics: int
    disks: tuple[str, ...] = ()
    hugepages: bool = False
    cpu_model: str = ""
    channel: str = ""
    balloon: bool = False
    graphics: bool = False
    macs: tuple[str, ...] = ()
    warm_until: str = ""
    files: tuple[str, ...] = ()
    warm_steps: tuple[str, ...] = ()
    format: int = _FORMAT

    @property
    def state(self) -> str:
        """How far the machine has come, for people: ``"booted"``, ``"files"`` or ``"steps"``."""
        return "steps" if self.warm_steps else "files" if self.files else "booted"

    def earlier(self) -> Iterator[Shape]:
        """The shapes that a machine has on its way to this one, the last one first.

        A machine boots, gets its files, and runs its warm steps.
        """
        if self.warm_steps and self.files:
            yield replace(self, warm_steps=())
        if self.warm_steps or self.files:
            yield replace(self, files=(), warm_steps=())

    def key(self) -> str:
        """The digest under which the cache keeps the snapshot."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


@functools.cache
def host_cpu() -> str:
    """The processor: its name and features, and its counter's rate to 1 %.

    A snapshot carries the rate at which its clock was told to run.
    """
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    features = hashlib.sha256(fields.get("flags", "").encode()).hexdigest()[:12]
    rate = f"{(tsc_khz() or 0) / 1e6:.3g} GHz"
    return f"{fields.get('model name', 'unknown')}, {rate}, features {features}"
