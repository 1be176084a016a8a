"""The global names of a test script: those of NixOS's test driver, and attest's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from attest.cluster.cluster import Cluster
from attest.errors import TestFailure
from attest.machine.conditions import PollingCondition
from attest.machine.machine import Machine
from attest.net.vlan import VLan
from attest.script.log import Log
from attest.script.retry import retry
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT
from attest.support.script_names import global_name

if TYPE_CHECKING:
    from unittest import TestCase

__all__ = ["ALSO_GLOBAL", "Driver", "IMPORTED", "namespace"]

_T = TypeVar("_T")
_R = TypeVar("_R")

ALSO_GLOBAL: Final = (
    "cluster", "create_machine", "debug", "dump_machine_ssh", "join_all", "log", "machines",
    "machines_nspawn", "machines_qemu", "polling_condition", "retry", "run_tests",
    "serial_stdout_off", "serial_stdout_on", "start_all", "subtest", "t", "test_script",
    "vlans", "wait_all",
)  # fmt: skip
"""Attributes and methods of `Driver` that a script finds under their bare names, too."""

IMPORTED: Final[Mapping[str, ModuleType | type]] = {
    "os": os, "Machine": Machine, "BaseMachine": Machine, "QemuMachine": Machine,
    "NspawnMachine": Machine, "VLan": VLan,
}  # fmt: skip
"""Modules and types that a script finds without an import."""


class Driver:
    """A test's machines and networks, and what can be done with all of them.

    Args:
        cluster: The machines.
        run: Runs the script with these global names.
        show_consoles: Shows what machines print on their consoles, or shows it no more.
        pause: Lets the user look around, where there is one.

    Attributes:
        cluster: The machines.
        machines: All of them, by name.
        machines_qemu: The same; all are virtual machines.
        machines_nspawn: None; there are no containers.
        vlans: The networks, by number.
        log: Writes into the run's log.
        logger: The same.
        t: The assertions of `unittest.TestCase`; what they find makes the test fail.
        debug: Its `breakpoint()` lets the user look around.
        out_dir: Where logs and the test's artefacts go.
        global_timeout: Seconds until the script is ended.
        vhost_vsock: None; there is no SSH backdoor.
    """

    def __init__(
        self,
        cluster: Cluster,
        run: Callable[[dict[str, Any]], None],
        show_consoles: Callable[[bool], None],
        pause: Callable[[dict[str, Any]], None],
    ) -> None:
        self.cluster = cluster
        self.machines: list[Machine] = [each for _, each in sorted(cluster.machines.items())]
        self.machines_qemu = self.machines
        self.machines_nspawn: list[Machine] = []
        self.vlans: list[VLan] = cluster.vlans
        self.log = self.logger = Log(cluster.events)
        self.t: TestCase = _Assertions()  # type: ignore[assignment]  # made when it is first used
        self.debug = Debug(pause)
        self.out_dir: Path = cluster.out_dir
        self.global_timeout = cluster.manifest.timeout
        self.vhost_vsock = None
        self._run = run
        self._show_consoles = show_consoles

    def start_all(self) -> None:
        """Start all machines and return; each call waits until its machine is ready."""
        self.cluster.start_all()

    def join_all(self) -> None:
        """Wait until all machines have powered off."""
        for machine in self.machines:
            machine.wait_for_shutdown()

    def create_machine(
        self,
        start_command: str | Mapping[str, Any],
        *,
        name: str | None = None,
        keep_vm_state: bool = False,
        keep_machine_state: bool = False,
    ) -> Machine:
        """Make a machine of a start script, see `attest.cluster.cluster.Cluster.create_machine`.

        Args:
            start_command: A command line, or a dictionary as older scripts have it.
            name: The machine's name; default: that in ``run-NAME-vm``, else ``machine``.
            keep_vm_state: Go on with the files of the last machine of that name.
            keep_machine_state: The same, as newer NixOS drivers call it.
        """
        keep = keep_vm_state or keep_machine_state
        return self.cluster.create_machine(start_command, name=name, keep_vm_state=keep)

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        """Group what happens inside, and report it as one part of the test."""
        with self.log.subtest(name):
            yield

    def retry(
        self,
        fn: Callable[[bool], object],
        timeout: Duration = DEFAULT_TIMEOUT,
        *,
        timeout_seconds: Duration | None = None,
    ) -> None:
        """Call ``fn(False)`` until it returns true, and after ``timeout`` seconds ``fn(True)``.

        Args:
            fn: Is told whether this is the last call.
            timeout: Seconds, or a timedelta.
            timeout_seconds: The same, as newer NixOS drivers call it.

        Raises:
            WaitFailed: The last call did not return true either.
        """
        retry(fn, timeout if timeout_seconds is None else timeout_seconds)

    @overload
    def polling_condition(self, fun_: Callable[[], bool | None]) -> PollingCondition: ...

    @overload
    def polling_condition(
        self,
        *,
        seconds_interval: Duration | None = None,
        description: str | None = None,
        interval: Duration = 2.0,
    ) -> Callable[[Callable[[], bool | None]], PollingCondition]: ...

    def polling_condition(
        self,
        fun_: Callable[[], bool | None] | None = None,
        *,
        seconds_interval: Duration | None = None,
        description: str | None = None,
        interval: Duration = 2.0,
    ) -> PollingCondition | Callable[[Callable[[], bool | None]], PollingCondition]:
        """Make a function a condition that must hold in each ``with`` block of it.

        It is checked before a machine does something, and while that takes its time. It holds when
        the function returns true, or nothing; it does not when it raises.

        Args:
            fun_: The function, where the decorator has no arguments.
            seconds_interval: The same as ``interval``, as older NixOS drivers call it.
            description: What errors call it; default: the function's docstring or name.
            interval: Seconds, or a timedelta, from one check to the next.
        """
        if seconds_interval is None:
            every = seconds(interval, "polling_condition: interval")
        else:
            every = seconds(seconds_interval, "polling_condition: seconds_interval")

        def condition(fun: Callable[[], bool | None]) -> PollingCondition:
            return PollingCondition(fun, self.cluster.events, every, description)

        return condition if fun_ is None else condition(fun_)

    def wait_all(self, items: Iterable[_T], fn: Callable[[_T], _R]) -> list[_R]:
        """Call ``fn`` with every item at once; see `attest.support.concurrency.wait_all`."""
        from attest.support.concurrency import (
            wait_all,  # costs more to import than most scripts need to spend
        )

        return wait_all(items, fn)

    def test_script(self) -> None:
        """Run the script."""
        self._run(namespace(self))

    def run_tests(self) -> None:
        """Run the script, then let the machines that run write out their files."""
        self.test_script()
        for machine in self.machines:
            if machine.is_up():
                machine.execute("sync")

    def dump_machine_ssh(self) -> None:
        """Write into the log how to get into the machines, which takes no SSH backdoor."""
        for machine in self.machines:
            name = global_name(machine.name)
            text = f"a shell in it: {name}.shell_interact() in the console of attest run -I"
            self.log.log(text, {"machine": machine.name})

    def serial_stdout_on(self) -> None:
        """Show what machines print on their consoles."""
        self._show_consoles(True)

    def serial_stdout_off(self) -> None:
        """Show what machines print on their consoles no more; the log files have it."""
        self._show_consoles(False)


class Debug:
    """Lets a script stop for its user."""

    def __init__(self, pause: Callable[[dict[str, Any]], None]) -> None:
        self._pause = pause

    def breakpoint(self, host: str = "127.0.0.1", port: int = 4444) -> None:
        """Open a Python console, where the run has a user; the script goes on afterwards.

        Args:
            host: Where NixOS's driver listens for a debugger; it means nothing here.
            port: The same.
        """
        here = sys._getframe(1)
        names = here.f_globals
        self._pause(names if here.f_locals is names else names | here.f_locals)


class _Assertions:
    """The assertions of `unittest.TestCase`, without its import where none is made."""

    def __getattr__(self, name: str) -> Any:
        from unittest import TestCase

        case = TestCase()
        case.failureException = TestFailure
        return getattr(case, name)


def namespace(driver: Driver) -> dict[str, Any]:
    """The global names of a test script."""
    names: dict[str, Any] = {name: getattr(driver, name) for name in ALSO_GLOBAL}
    names |= {**IMPORTED, "driver": driver, "__name__": "__attest__"}
    if (script := driver.cluster.manifest.script_path()) is not None:
        names["__file__"] = str(script.absolute())
    if len(driver.machines) == 1:
        names["machine"] = driver.machines[0]
    names |= {global_name(machine.name): machine for machine in driver.machines}
    return names | {f"vlan{vlan.nr}": vlan for vlan in driver.vlans}
