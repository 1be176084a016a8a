"""Files in and out of a machine."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from attest.errors import UsageError
from attest.events import Kind
from attest.machine.power import Power
from attest.support import arguments

__all__ = ["Files"]


class Files(Power):
    """Copies of files and trees."""

    def copy_from_host(self, source: str | Path, target: str | PurePath) -> None:
        """Copy a file or a directory tree into the machine, with modes, owners, times and links.

        A relative path is looked for beside the script, then in the working directory.

        Raises:
            UsageError: There is no such file or directory, or it cannot be read.
        """
        self._copy_from_host(source, target)

    def copy_from_host_via_shell(self, source: str | Path, target: str | PurePath) -> None:
        """As `copy_from_host`, but not through a directory that host and machine share."""
        self._copy_from_host(source, target, directly=True)

    def _copy_from_host(
        self, source: str | Path, target: str | PurePath, *, directly: bool = False
    ) -> None:
        path = self._from_host(source)
        target = arguments.path(target, f"{self.name}: copy_from_host: target")
        channel = self._channel  # which a machine is started for
        put = channel.put_directly if directly else channel.put
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._lifecycle.explained(),
        ):
            try:
                left_out = put(path, target)
            except OSError as error:  # the channel's are no such
                place = error.filename or path
                reason = error.strerror or str(error)
                raise UsageError(
                    f"{self.name}: copy_from_host: cannot read {place}: {reason}"
                ) from error
            for warning in left_out:
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    def _from_host(self, given: str | Path) -> Path:
        source = Path(arguments.path(given, f"{self.name}: copy_from_host: source"))
        beside = self._host.files_dir.absolute() / source
        path = beside if os.path.lexists(beside) else source.absolute()
        if not os.path.lexists(path):
            places = [str(beside.parent)]
            if path.parent != beside.parent:
                places.append(str(path.parent))
            raise UsageError(
                f"{self.name}: copy_from_host: there is no {source.name} in {' or '.join(places)}"
            )
        if not path.is_file() and not path.is_dir():
            what = "leads nowhere" if path.is_symlink() else "is no file or directory"
            raise UsageError(f"{self.name}: copy_from_host: {path} {what}")
        if path != beside:
            text = f"{source} is not beside the script; it is that of the working directory: {path}"
            self._events.emit(Kind.LOG, text, machine=self.name)
        return path

    def copy_from_machine(self, source: str | PurePath, target_dir: str | Path = "") -> None:
        """Copy a file or a directory tree into ``target_dir`` below the output directory."""
        source = arguments.path(source, f"{self.name}: copy_from_machine: source")
        channel = self._channel
        name = Path(source).name
        if name in ("", ".."):  # the copy would take the place of a directory that holds more
            raise UsageError(f"{self.name}: cannot copy {source!r}: give the path of what is in it")
        target = self.out_dir / target_dir / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.name}: copy_from_machine: cannot make {target.parent}: {error.strerror}"
            ) from error
        with (
            self._events.span(Kind.COPY, f"copy {source} to {target}", machine=self.name),
            self._lifecycle.explained(),
        ):
            for warning in channel.get(source, target):
                self._events.emit(Kind.WARNING, warning, machine=self.name)

    copy_from_vm = copy_from_machine
