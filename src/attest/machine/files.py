"""Files in and out of a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attest.errors import UsageError
from attest.events import Kind
from attest.machine.power import Power

__all__ = ["Files"]


class Files(Power):
    """Copies of files and trees."""

    def copy_from_host(self, source: str | Path, target: str) -> None:
        """Copy a file or a directory tree into the machine, with modes, owners, times and links."""
        self._copy_from_host(self._channel.put, source, target)

    def copy_from_host_via_shell(self, source: str | Path, target: str) -> None:
        """As `copy_from_host`, but not through a directory that host and machine share."""
        self._copy_from_host(self._channel.put_directly, source, target)

    def _copy_from_host(
        self, put: Callable[[Path, str], list[str]], source: str | Path, target: str
    ) -> None:
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._lifecycle.explained(),
        ):
            for warning in put(Path(source), target):
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """Copy a file or a directory tree into ``target_dir`` below the output directory."""
        channel = self._channel
        name = Path(source).name
        if name in ("", ".."):  # the copy would take the place of a directory that holds more
            raise UsageError(f"{self.name}: cannot copy {source!r}: give the path of what is in it")
        target = self.out_dir / target_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._lifecycle.explained(),
        ):
            for warning in channel.get(source, target):
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    copy_from_vm = copy_from_machine
