"""A machine's virtual terminals, as their text is in the kernel."""

from __future__ import annotations

from attest.errors import UsageError
from attest.events import Kind
from attest.machine.commands import Commands
from attest.support.arguments import pattern
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT, tries
from attest.support.text import last_lines

__all__ = ["TextConsoles"]


class TextConsoles(Commands):
    """The virtual terminals tty1 and so on; they need no display."""

    def get_tty_text(self, tty: str) -> str:
        """The text that a virtual terminal shows, with its lines.

        Args:
            tty: Its number, as text.

        Raises:
            UsageError: It is none.
        """
        self._check_tty(tty, "get_tty_text")
        return self._tty_text(tty)

    def _tty_text(self, tty: str) -> str:
        return self._look_at(
            f"fold -w$(stty -F /dev/tty{tty} size | awk '{{print $2}}') /dev/vcs{tty}"
        )

    def wait_until_tty_matches(
        self, tty: str, regexp: str, timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until a virtual terminal shows a text.

        Args:
            tty: Its number, as text.
            regexp: A regular expression, which is searched for.
            timeout: Seconds, or a timedelta.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds.
        """
        method = "wait_until_tty_matches"
        wanted = pattern(regexp, f"{self.name}: {method}: regexp")
        timeout = seconds(timeout, f"{self.name}: {method}: timeout")
        self._check_tty(tty, method)
        with self._events.span(Kind.WAIT, f"wait for {regexp!r} on tty{tty}", machine=self.name):
            for _ in tries(timeout):
                text = self._tty_text(tty)
                if wanted.search(text):
                    return
            message = f"tty{tty} did not show {regexp!r} in {timeout:g} s"
            raise self._wait_failed(message, {"last seen": last_lines(text)})

    def dump_tty_contents(self, tty: str) -> None:
        """Write what a virtual terminal shows into the machine's journal."""
        self._check_tty(tty, "dump_tty_contents")
        self.execute(f"fold -w 80 /dev/vcs{tty} | systemd-cat")

    def _check_tty(self, tty: object, method: str) -> None:
        """Scripts give numbers, too."""
        if isinstance(tty, bool) or not str(tty).isdecimal():
            raise UsageError(
                f'{self.name}: {method}: tty: expected a number such as "1", found {tty!r}'
            )
