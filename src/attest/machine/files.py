"""Files in and out of a machine."""

from __future__ import annotations

from pathlib import Path

from attest.errors import UsageError
from attest.events import Kind
from attest.machine.lifecycle import Lifecycle

__all__ = ["Files"]


class Files(Lifecycle):
    """Copies of files and trees."""

    def copy_from_host(self, source: str | Path, target: str) -> None:
        """Copy a file or a directory tree into the machine, with modes, owners, times and links."""
        channel = self.channel
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._explained(),
        ):
            for warning in channel.put(Path(source), target):
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """Copy a file or a directory tree into ``target_dir`` below the output directory."""
        channel = self.channel
        name = Path(source).name
        if name in ("", ".."):  # the copy would take the place of a directory that holds more
            raise UsageError(f"{self.name}: cannot copy {source!r}: give the path of what is in it")
        target = self.out_dir / target_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._explained(),
        ):
            for warning in channel.get(source, target):
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    copy_from_vm = copy_from_machine
