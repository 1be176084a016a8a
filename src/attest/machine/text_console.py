"""A machine's virtual terminals, as their text is in the kernel."""

from __future__ import annotations

import re

from attest.events import Kind
from attest.machine.commands import Commands
from attest.support.polling import DEFAULT_TIMEOUT, tries
from attest.support.text import last_lines

__all__ = ["TextConsoles"]


class TextConsoles(Commands):
    """The virtual terminals tty1 and so on; they need no display."""

    def get_tty_text(self, tty: str) -> str:
        """The text that a virtual terminal shows, with its lines.

        Args:
            tty: Its number, as text.
        """
        return self._look_at(
            f"fold -w$(stty -F /dev/tty{tty} size | awk '{{print $2}}') /dev/vcs{tty}"
        )

    def wait_until_tty_matches(
        self, tty: str, regexp: str, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until a virtual terminal shows a text.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds.
        """
        pattern = re.compile(regexp)
        with self._events.span(Kind.WAIT, f"wait for {regexp!r} on tty{tty}", machine=self.name):
            for _ in tries(timeout):
                text = self.get_tty_text(tty)
                if pattern.search(text):
                    return
            message = f"tty{tty} did not show {regexp!r} in {timeout:g} s"
            raise self._wait_failed(message, {"last seen": last_lines(text)})

    def dump_tty_contents(self, tty: str) -> None:
        """Write what a virtual terminal shows into the machine's journal."""
        self.execute(f"fold -w 80 /dev/vcs{tty} | systemd-cat")
