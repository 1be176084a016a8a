"""A machine's X server."""

from __future__ import annotations

import re
import time
from typing import Final

from attest.events import Kind
from attest.machine.waits import Waits
from attest.support.arguments import pattern
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT, tries

__all__ = ["X11"]

_SOCKET: Final = "/tmp/.X11-unix/X0"

# NixOS's display managers start the session's target after the server: its window manager is up.
_SESSION: Final = (
    "[ ! -e /run/current-system ] || "
    'journalctl -b SYSLOG_IDENTIFIER=systemd | grep -q "Reached target Current graphical"'
)


class X11(Waits):
    """Waits for the X server ``:0`` and for windows on it."""

    def wait_for_x(self, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Wait until the X server takes connections; on NixOS, until the session is up, too.

        Raises:
            WaitFailed: It does not after ``timeout`` seconds.
        """
        timeout = seconds(timeout, f"{self.name}: wait_for_x: timeout")
        deadline = time.monotonic() + timeout
        with self._events.span(Kind.WAIT, "wait for the X server", machine=self.name):
            self.wait_for_open_unix_socket(_SOCKET, timeout=timeout)
            self.wait_until_succeeds(_SESSION, timeout=max(deadline - time.monotonic(), 0))

    def get_window_names(self) -> list[str]:
        """The names of all windows that the X server has."""
        from attest.display.inside import X_ACCESS

        tree = self._look_at(f"{X_ACCESS}\nxwininfo -root -tree")
        return re.findall(r'0x[0-9a-f]+ "([^"]*)"', tree)

    def wait_for_window(self, regexp: str, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Wait until there is a window whose name matches.

        Raises:
            WaitFailed: There is none after ``timeout`` seconds.
        """
        wanted = pattern(regexp, f"{self.name}: wait_for_window: regexp")
        timeout = seconds(timeout, f"{self.name}: wait_for_window: timeout")
        with self._events.span(Kind.WAIT, f"wait for a window {regexp!r}", machine=self.name):
            for _ in tries(timeout):
                names = self.get_window_names()
                if any(wanted.search(name) for name in names):
                    return
            message = f"no window {regexp!r} in {timeout:g} s; there are: {', '.join(names)}"
            raise self._wait_failed(message)
