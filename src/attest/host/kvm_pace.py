"""Whether KVM runs guests' instructions, or emulates them one by one.

Some hypervisors offer `/dev/kvm` in their guests without the processor's help: a kernel that does
not know of it is emulated there, at a thousandth of the speed, and never comes up. A guest of five
instructions shows that at once. It is a program of its own, as a guest that hangs has to be killed:

    python -I kvm_pace.py DEVICE        # prints nanoseconds for each round of a loop
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import time
from typing import Final

_ROUNDS: Final = 10_000
_TRIES: Final = 3
"""How often it is measured: who else is on the host only makes it slower."""

_QUICK: Final = 20.0
"""Nanoseconds below which there is no need to try again."""

_MEMORY: Final = 1 << 20
_CODE: Final = 0x1000
_TABLES: Final = 0x2000

# mov ecx, rounds; loop: dec ecx; jnz loop; out 0xf1, al; jmp to the begin
_GUEST: Final = b"\xb9" + struct.pack("<I", _ROUNDS) + b"\xff\xc9\x75\xfc\xe6\xf1\xeb\xf3"

_CREATE_VM: Final = 0xAE01
_VCPU_MAP_SIZE: Final = 0xAE04
_SUPPORTED_CPUID: Final = 0xC008AE05
_CREATE_VCPU: Final = 0xAE41
_SET_MEMORY: Final = 0x4020AE46
_SET_TSS: Final = 0xAE47
_RUN: Final = 0xAE80
_SET_REGISTERS: Final = 0x4090AE82
_GET_SPECIAL: Final = 0x8138AE83
_SET_SPECIAL: Final = 0x4138AE84
_SET_CPUID: Final = 0x4008AE90
"""Those of linux/kvm.h, for x86-64."""

_EXIT_IO: Final = 2
_EXIT_REASON: Final = 8


def _pace(device: str) -> float:
    """Nanoseconds of processor time for a round of two instructions; may take for ever.

    Raises:
        OSError: It is no KVM, or cannot do it.
    """
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, _CREATE_VM, 0)
    memory = mmap.mmap(-1, _MEMORY)
    memory[_CODE : _CODE + len(_GUEST)] = _GUEST
    # The first 2 MiB, at the same addresses, by three levels of page tables.
    for table, entry in enumerate((_TABLES + 0x1003, _TABLES + 0x2003, 0x83)):
        struct.pack_into("<Q", memory, _TABLES + table * 0x1000, entry)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(vm, _SET_TSS, 0x7FFBD000)  # old Intel processors want a place for it
    fcntl.ioctl(vm, _SET_MEMORY, struct.pack("=IIQQQ", 0, 0, 0, _MEMORY, address))
    vcpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
    _enter_long_mode(kvm, vcpu)
    state = mmap.mmap(vcpu, fcntl.ioctl(kvm, _VCPU_MAP_SIZE, 0))
    best = float("inf")
    _run(vcpu, state)  # what happens for the first time is not measured
    for _ in range(_TRIES):
        begun = time.process_time()
        _run(vcpu, state)
        best = min(best, (time.process_time() - begun) / _ROUNDS * 1e9)
        if best < _QUICK:
            break
    return best


def _enter_long_mode(kvm: int, vcpu: int) -> None:
    """Let a processor begin where a 64-bit kernel is soon after its start."""
    features = bytearray(8 + 40 * 256)
    struct.pack_into("=I", features, 0, 256)
    fcntl.ioctl(kvm, _SUPPORTED_CPUID, features)
    fcntl.ioctl(vcpu, _SET_CPUID, features)
    special = bytearray(312)
    fcntl.ioctl(vcpu, _GET_SPECIAL, special)
    for place in range(6):  # cs, ds, es, fs, gs, ss
        code = place == 0
        fields = (0, 0xFFFFFFFF, 8 if code else 16, 11 if code else 3, 1, 0, not code, 1, code, 1)
        struct.pack_into("<QIHBBBBBBBB", special, place * 24, *fields, 0)
    control = list(struct.unpack_from("<6Q", special, 224))  # cr0, cr2, cr3, cr4, cr8, efer
    control[0], control[2], control[3], control[5] = 0x80000031, _TABLES, 0x20, 0x500
    struct.pack_into("<6Q", special, 224, *control)
    fcntl.ioctl(vcpu, _SET_SPECIAL, bytes(special))
    general = [0] * 16
    fcntl.ioctl(vcpu, _SET_REGISTERS, struct.pack("<18Q", *general, _CODE, 2))  # rip, rflags


def _run(vcpu: int, state: mmap.mmap) -> None:
    """Let the guest run to the end of its loop."""
    fcntl.ioctl(vcpu, _RUN, 0)
    (reason,) = struct.unpack_from("=I", state, _EXIT_REASON)
    if reason != _EXIT_IO:
        raise OSError(f"KVM's exit {reason}")


if __name__ == "__main__":
    print(_pace(sys.argv[1]))
