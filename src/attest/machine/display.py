"""What a machine shows, and its keyboard."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from attest.errors import MachineError, UsageError
from attest.events import Kind
from attest.guest.channel import Command
from attest.machine.commands import Commands
from attest.machine.conditions import watched
from attest.machine.monitor import Monitor
from attest.support import arguments
from attest.support.durations import Duration, limit, seconds
from attest.support.polling import DEFAULT_TIMEOUT, tries
from attest.support.text import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Display"]


class Display(Commands, Monitor):
    """Screenshots, the text on them, and keys."""

    def screenshot(self, filename: str) -> None:
        """Take a picture of what the machine shows, as PNG.

        Without a display of QEMU's, it is taken inside: of an X server, the frame buffer, or the
        text console.

        Args:
            filename: A path, or a name in the output directory; without a suffix it gets ``.png``.

        Raises:
            MachineError: Nothing can be seen.
        """
        name = filename if "." in filename else f"{filename}.png"
        path = Path(name) if "/" in name else self.out_dir / name
        with self._events.span(
            Kind.ACTION, f"screenshot {path}", machine=self.name, image=str(path)
        ):
            path.write_bytes(self._look()[0])

    def get_screen_text(self) -> str:
        """The text that the machine shows, read from its picture.

        Raises:
            HostError: Tesseract or its Python packages are not installed.
        """
        return next(self._texts(*self._look()))

    def get_screen_text_variants(self) -> list[str]:
        """The text that the machine shows, as several ways to read the picture have it."""
        return list(self._texts(*self._look()))

    def wait_for_text(self, regex: str, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Wait until the machine shows a text; a picture of what it shows is left where it fails.

        Raises:
            WaitFailed: It did not in ``timeout`` seconds.
        """
        pattern = arguments.pattern(regex, f"{self.name}: wait_for_text: regex")
        timeout = seconds(timeout, f"{self.name}: wait_for_text: timeout")
        last: tuple[bytes, str | None] | None = None
        text = ""
        with self._events.span(Kind.WAIT, f"wait for the text {regex!r}", machine=self.name):
            for _ in tries(timeout):
                watched(lambda _: None)
                seen = self._look()
                if seen != last:  # reading takes longer than looking
                    last = seen
                    for text in self._texts(*seen):
                        if pattern.search(text):
                            return
            picture = self.out_dir / f"{self.name}-not-found.png"
            picture.write_bytes(seen[0])
            message = f"did not show {regex!r} in {timeout:g} s; picture: {picture}"
            raise self._wait_failed(message, {"last seen": last_lines(text)})

    def send_key(self, key: str, delay: Duration | None = 0.01, log: bool | None = True) -> None:
        """Press a key, or several together.

        Args:
            key: A character or QEMU's name of a key, such as ``"ret"`` or ``"ctrl-alt-f2"``.
            delay: Seconds, or a timedelta, until the next may come.
            log: Report it.

        Raises:
            MachineError: The machine has no keyboard.
            UsageError: There is no such key.
        """
        from attest.display.keys import key_for
        from attest.vmm.qemu.qmp import ExecuteError

        arguments.name(key, f"{self.name}: send_key: key")
        delay = limit(delay, f"{self.name}: send_key: delay")
        vmm = self._monitored("a keyboard")
        if not vmm.keyboard:
            raise MachineError(
                self.name, "a microvm has no keyboard", hint="`graphics = true` gives it one"
            )
        what = self._events.span(Kind.ACTION, f"press {key!r}", machine=self.name)
        with what if log else nullcontext():
            try:
                vmm.press(key_for(key))
            except (ExecuteError, ValueError) as error:
                raise UsageError(f"{self.name}: send_key({key!r}): {error}") from None
            if delay is not None:
                time.sleep(delay)

    def send_chars(self, chars: str, delay: Duration | None = 0.01) -> None:
        """Type characters, with ``delay`` seconds after each; a line's end is the return key."""
        arguments.text(chars, f"{self.name}: send_chars: chars")
        delay = limit(delay, f"{self.name}: send_chars: delay")
        with self._events.span(Kind.ACTION, f"type {chars!r}", machine=self.name):
            for character in chars:
                self.send_key(character, delay, log=False)

    def _look(self) -> tuple[bytes, str | None]:
        """The picture as PNG, and its text, where that is known."""
        if (picture := self._screendump()) is not None:
            return picture, None
        from attest.display.inside import COMMAND, understand
        from attest.display.picture import to_png

        seen = self._attempt(self._channel, Command(COMMAND, timeout=60, strict=True))
        if seen.status != 0:
            raise MachineError(
                self.name,
                f"no picture: {seen.stderr.decode(errors='replace').strip()}",
                hint="`graphics = true` gives it a display, on QEMU",
            )
        try:
            understood = understand(seen.stdout)
        except ValueError as error:
            raise MachineError(self.name, f"no picture: {error}") from None
        return to_png(understood.picture), understood.text

    def _screendump(self) -> bytes | None:
        """The picture that QEMU has of its display; None where there is none."""
        from attest.vmm.qemu.monitored import Monitored

        vmm = self._lifecycle.alive().vmm
        if not isinstance(vmm, Monitored):
            return None
        from tempfile import NamedTemporaryFile

        from attest.vmm.qemu.qmp import ExecuteError

        # In the cell, too, QEMU sees this directory. Several threads may look at the same time.
        with NamedTemporaryFile(dir=self.state_dir, suffix=".png") as file:
            try:
                vmm.execute("screendump", filename=file.name, format="png")
            except ExecuteError:
                return None
            return Path(file.name).read_bytes()

    def _texts(self, picture: bytes, text: str | None) -> Iterator[str]:
        if text is not None:
            yield text
            return
        from attest.display.ocr import variants
        from attest.display.picture import open_picture

        yield from variants(open_picture(picture))
