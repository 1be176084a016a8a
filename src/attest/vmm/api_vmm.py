"""What the VMMs have in common that are driven through an API: how they start, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar, Final, Literal

from attest.vmm.base import MachineSpec, OnExit, VmmExit
from attest.vmm.http_api import Api, explained
from attest.vmm.process import VmmProcess, WatchedProcess
from attest.vmm.workdir import Workdir

__all__ = ["API", "ApiVmm"]

API: Final = "api"
"""Name of the API's socket in the process's working directory."""


class ApiVmm(VmmProcess):
    """A VMM with an API on a Unix socket in its working directory, see `attest.vmm.base.Vmm`.

    Args:
        spec: What it runs.
        workdir: Its working directory, which is removed where it cannot be started.
        on_exit: Called once when the process has ended.
        base: What the path of each of the API's requests begins with.

    Attributes:
        title: What texts call the VMM.
        name: The machine's name.
    """

    title: ClassVar[str]

    def __init__(
        self,
        spec: MachineSpec,
        workdir: Workdir,
        on_exit: OnExit,
        *,
        base: str = "",
    ) -> None:
        self.name = spec.name
        self.channel: Literal["serial", "vsock"] = "vsock"
        self._spec = spec
        self._workdir = workdir
        self._on_exit = on_exit
        self._api = Api(workdir.path / API, base=base)
        self._paused = False

    def _run(self, start: Callable[[], WatchedProcess], begin: Callable[[], None]) -> None:
        """Start the process, and let the guest begin; where either fails, nothing is left.

        Args:
            start: Starts the process.
            begin: Lets it boot its guest, or load it.
        """
        try:
            self._process = start()
        except BaseException:
            self._workdir.remove()
            raise
        try:
            begin()
        except BaseException:
            self.abandon()
            raise

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.title, self.wait)

    def _ended(self, exit: VmmExit) -> None:
        try:
            self._api.close()
        finally:
            self._on_exit(exit)
