"""What each VMM can do, as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from attest.vmm.registry import BACKENDS

__all__ = ["WORDS", "table"]

WORDS: Final[Mapping[str, str]] = {
    "tcg": "without KVM",
    "nested": "nested",
    "graphics": "graphics",
    "q35": 'machine = "q35"',
    "reset": "reboot in the same process",
    "set_link": "links that go down",
    "jumbo": "packets of more than 1500 bytes",
    "keyboard": "console input",
    "disks": "disks",
    "hugepages": "hugepages",
    "prefault": "prefault",
    "balloon": "balloon",
    "jail": "jail",
    "serial": 'channel = "serial"',
    "vsock": 'channel = "vsock"',
    "compressed": "images without vmlinux",
}
"""What users call each of `attest.vmm.capabilities.Capabilities`: mostly a node's key."""

_FIRST: Final = max(map(len, WORDS.values())) + 2


def table() -> Iterator[str]:
    """A line for each capability and a column for each VMM, then the reason for each ``no``."""
    lacks = {vmm: msgspec.structs.asdict(backend.capabilities) for vmm, backend in BACKENDS.items()}
    yield " " * _FIRST + "  ".join(lacks)
    for field, words in WORDS.items():
        cells = (
            f"{'no' if reasons[field] else 'yes':<{len(vmm)}}" for vmm, reasons in lacks.items()
        )
        yield f"{words:<{_FIRST}}{'  '.join(cells)}".rstrip()
    yield ""
    for vmm, reasons in lacks.items():
        yield f"{vmm} cannot:"
        for field, words in WORDS.items():
            if reasons[field]:
                yield f"  {words}: {reasons[field]}"
