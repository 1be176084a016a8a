"""File descriptors, of which the driver holds some for each machine."""

from __future__ import annotations

import resource
from typing import Final

from attest.errors import HostError

__all__ = ["reserve_descriptors"]

_OWN: Final = 128
_EACH: Final = 16
"""For each machine: 8 are open while it runs, and some more while it starts and copies."""


def reserve_descriptors(machines: int) -> None:
    """Raise this process's limit to what it needs with so many machines.

    Raises:
        HostError: The user may not have as many.
    """
    needed = _OWN + _EACH * machines
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise HostError(
            f"{machines} machines need {needed} file descriptors, and this user may have {hard}",
            hint="raise the limit `nofile` in /etc/security/limits.conf, or LimitNOFILE= of the "
            "service that runs this",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
