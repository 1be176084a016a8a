"""A machine's identity as an IDENTITY request carries it."""

from __future__ import annotations

import os
from typing import Final

from attest.guest.agent.protocol import Fields, IdentityField
from attest.guest.identity import Identity, Interface

__all__ = ["encode_identity"]

_SEED: Final = 64
"""Bytes; the kernel's generator holds half as many."""


def encode_identity(identity: Identity) -> bytes:
    """The fields of an IDENTITY request. A copy without a seed gets one here."""
    fields = (
        Fields()
        .text(IdentityField.HOSTNAME, identity.hostname)
        .text(IdentityField.MACHINE_ID, identity.machine_id)
        .text(IdentityField.HOSTS, identity.hosts)
    )
    for interface in identity.interfaces:
        fields.text(IdentityField.INTERFACE, _interface_lines(interface))
    # Keys that a copy makes from the same random numbers as its siblings are no secrets.
    seed = os.urandom(_SEED) if identity.copy and identity.seed is None else identity.seed
    fields.raw(IdentityField.SEED, seed).u64(IdentityField.CLOCK, identity.clock_ns)
    fields.u32(IdentityField.COPY, 1 if identity.copy else None)
    return fields.encode()


def _interface_lines(interface: Interface) -> str:
    lines = [f"index={interface.index}"]
    lines += [f"mac={interface.mac}"] if interface.mac else []
    lines += [f"address={address}" for address in interface.addresses]
    lines += ["up"] if interface.up else []
    return "".join(f"{line}\n" for line in lines)
