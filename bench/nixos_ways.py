"""``attest-nixos-driver`` with the ways of NixOS's own driver.

It looks once a second at what is waited for, and does one thing after the other.
"""

from __future__ import annotations

from attest.cli import nixos_driver
from attest.script import driver
from attest.support import polling as pauses


def main() -> None:
    """Run the command."""
    vars(pauses).update(_POLL_FIRST=1.0, _POLL_LAST=1.0)
    names = tuple(name for name in driver.ALSO_GLOBAL if name != "wait_all")
    vars(driver).update(ALSO_GLOBAL=names)
    nixos_driver.main()


if __name__ == "__main__":
    main()
