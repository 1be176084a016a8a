"""What becomes of the machines of a test that fails: `attest run --snapshot-on-failure`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from attest.cluster.cluster import Cluster
from attest.errors import Terminated, message_of

__all__ = ["Keeping"]


class Keeping:
    """Saves the machines at the failure; whether they stay saved, a user may say later.

    So nothing has to stand still while a question waits for its answer.

    Args:
        wanted: What the user has said; None to ask, where there is somebody to ask.
        run: The run's directory.
        asks: A question may be asked.
    """

    def __init__(self, wanted: bool | None, run: Path, *, asks: bool = True) -> None:
        self._run = run
        self._wanted = wanted
        self._asks = asks and wanted is None and _is_attended()
        self._problem = ""
        if any(run.iterdir()):
            from attest.cluster.archive import remove_archive

            remove_archive(run)  # it may be that of a run before, into the same place

    @contextmanager
    def of(self, cluster: Cluster) -> Iterator[None]:
        """Save the machines when what runs inside the ``with`` block fails, and raise it again."""
        try:
            yield
        except (Terminated, KeyboardInterrupt):
            raise
        except BaseException:
            if self._wanted or self._asks:
                self._save(cluster)
            raise

    def settle(self, say: Callable[[str], None]) -> None:
        """Ask whether to keep the machines, where the user has not said so; say what is kept."""
        from attest.cluster.archive import archive_path, is_archived, remove_archive, resume_command

        if self._problem:
            say(f"the machines could not be kept: {self._problem}")
        if not is_archived(self._run):
            return
        if self._asks and not _confirmed():
            remove_archive(self._run)
            return
        files = [file.stat() for file in archive_path(self._run).rglob("*")]
        size = sum(file.st_blocks * 512 for file in files if file.st_nlink == 1)
        say(f"the machines are kept ({size >> 20} MiB): {resume_command(self._run)}")

    def _save(self, cluster: Cluster) -> None:
        if all(machine.absence for machine in cluster.machines.values()):
            self._problem = "none was running" if self._wanted else ""
            return
        from attest.cluster.archive import archive_path

        try:
            cluster.archive(archive_path(self._run))
        except (Exception, KeyboardInterrupt) as error:  # it must not hide the test's own failure
            self._problem = message_of(error)


def _is_attended() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and not os.environ.get("CI")


def _confirmed() -> bool:
    try:
        return click.confirm("keep the machines as they are now?", err=True)
    except click.Abort:  # Ctrl-C, Ctrl-D
        return False
