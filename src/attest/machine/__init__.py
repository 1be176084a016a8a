"""The machine as a test sees it: one module for each subject, and `Machine` has them all.

Method names, parameters, defaults and failure behaviour are those of the NixOS test driver where
it has them.
"""

from __future__ import annotations

from attest.machine.console import ConsoleAccess
from attest.machine.display import Display
from attest.machine.files import Files
from attest.machine.network import Network
from attest.machine.text_console import TextConsoles
from attest.machine.units import Units
from attest.machine.x11 import X11

__all__ = ["Machine"]


class Machine(Units, Files, Network, ConsoleAccess, TextConsoles, X11, Display):
    """One machine of a cluster.

    Every method that needs the machine starts it and waits until it is ready. Methods can be
    called from several threads at once.
    """
