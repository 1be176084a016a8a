"""What every test needs of the process that it runs in."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take interrupts: a shell's background job ignores them, and so would every child of it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
