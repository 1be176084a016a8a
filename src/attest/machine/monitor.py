"""QMP and the human monitor of a machine's QEMU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attest.errors import MachineError
from attest.events import Kind
from attest.machine.power import Power
from attest.support.durations import Duration, seconds

if TYPE_CHECKING:
    from attest.vmm.qemu.monitored import Monitored

__all__ = ["Monitor", "QmpClient"]


class QmpClient:
    """QEMU's machine protocol, as NixOS's driver offers it."""

    def __init__(self, vmm: Monitored) -> None:
        self._vmm = vmm

    def send(self, cmd: str, args: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Run a command; its result is the answer's ``return``.

        Raises:
            qemu.qmp.QMPError: QEMU refused it, or has ended.
        """
        return {"return": self._vmm.execute(cmd, **args)}


class Monitor(Power):
    """QMP, and the monitor for people. Other VMMs than QEMU have neither."""

    @property
    def qmp_client(self) -> QmpClient:
        """QMP; events are collected from its first use on.

        Raises:
            MachineError: Its VMM is not QEMU.
        """
        vmm = self._monitored("QMP")
        vmm.execute("query-status")
        return QmpClient(vmm)

    def send_monitor_command(self, command: str) -> str:
        """Run a command of QEMU's monitor and return what it prints.

        Raises:
            MachineError: Its VMM is not QEMU.
        """
        vmm = self._monitored("the monitor")
        with self._events.span(Kind.ACTION, f"monitor: {command}", machine=self.name):
            return vmm.monitor(command)

    def wait_for_qmp_event(
        self, event_filter: Callable[[dict[str, Any]], bool], timeout: Duration = 600
    ) -> dict[str, Any]:
        """The next event that ``event_filter`` takes, of those since the first use of QMP.

        Args:
            event_filter: Is called with each event, such as ``{"event": "RESET", "data": …}``.
            timeout: Seconds, or a timedelta.

        Raises:
            TimeoutError: It did not come.
            MachineError: Its VMM is not QEMU.
        """
        timeout = seconds(timeout, f"{self.name}: wait_for_qmp_event: timeout")
        vmm = self._monitored("QMP")
        with self._events.span(Kind.WAIT, "wait for a QMP event", machine=self.name):
            return vmm.wait_for_event(event_filter, timeout)

    def _monitored(self, what: str) -> Monitored:
        from attest.vmm.qemu.monitored import Monitored

        vmm = self._lifecycle.alive().vmm
        if not isinstance(vmm, Monitored):
            raise MachineError(
                self.name,
                f"{what}: QEMU has it, and this machine runs on {self._lifecycle.program}",
                hint='`vmm = "qemu"`',
            )
        return vmm
