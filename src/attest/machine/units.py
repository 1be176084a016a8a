"""systemd in a machine."""

from __future__ import annotations

import shlex
from typing import Final

from attest.errors import WaitFailed
from attest.events import Kind
from attest.guest.channel import Command, WaitFor, WaitKind
from attest.machine.completed import text_of
from attest.machine.waits import Waits
from attest.support.polling import DEFAULT_TIMEOUT, tries
from attest.support.text import last_lines

__all__ = ["Units"]

_SUFFIXES: Final = (
    ".service", ".socket", ".target", ".device", ".mount", ".automount", ".swap", ".timer",
    ".path", ".slice", ".scope",
)  # fmt: skip


class Units(Waits):
    """Units and jobs of the machine's systemd, and of its users'."""

    def wait_for_unit(
        self, unit: str, user: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until a systemd unit is active.

        Raises:
            WaitFailed: It failed, or is inactive with nothing pending, or ``timeout`` seconds
            passed.
        """
        try:
            if user is None:
                self._wait(f"unit {unit}", WaitFor(WaitKind.UNIT, _full_name(unit), timeout))
            else:
                self._wait_for_user_unit(unit, user, timeout)
        except WaitFailed as error:
            raise self._with_journal(unit, user, error) from None

    def wait_for_job(self, jobname: str) -> None:
        """Do the same as `wait_for_unit`, under the name that older NixOS drivers have."""
        self.wait_for_unit(jobname)

    def switch_root(self) -> None:
        """Go on from a systemd initrd, with a shell in it, into the system; wait for that.

        Images of attest's have no systemd in their initrd; NixOS's ``testing.initrdBackdoor`` has.
        """
        self.wait_for_unit("initrd.target")
        self.execute("systemctl isolate --no-block initrd-switch-root.target >/dev/null 2>&1")
        self.connected = False
        self.connect()

    def _wait_for_user_unit(self, unit: str, user: str, timeout: float) -> None:
        # The agent watches the system's manager only: whoever asks a user's must be that user.
        with self._events.span(Kind.WAIT, f"wait for unit {unit} of {user}", machine=self.name):
            for _ in tries(timeout):
                info = self.get_unit_info(unit, user)
                state = info.get("ActiveState", "unknown")
                if state == "active":
                    return
                now = f'unit "{unit}" of {user} is {state}'
                if state == "failed":
                    result = f"{info.get('Result')}, exit code {info.get('ExecMainStatus')}"
                    raise self._wait_failed(f"{now}: {result}", state=info)
                if state == "inactive" and "No jobs" in self.systemctl("list-jobs --full", user)[1]:
                    raise self._wait_failed(f"{now} and there are no pending jobs", state=info)
            raise self._wait_failed(f"{now} after {timeout:g} s", state=info)

    def _with_journal(self, unit: str, user: str | None, error: WaitFailed) -> WaitFailed:
        option = "--unit" if user is None else "--user-unit"
        command = f"journalctl --no-pager --quiet -n 20 {option}={shlex.quote(unit)}"
        completed = self._attempt(self._channel, Command(command, timeout=30, strict=True))
        journal = last_lines(text_of(completed.stdout))
        error.evidence = {f"last journal lines of {unit}": journal, **error.evidence}
        return error

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        """Run ``systemctl`` with the arguments ``q``, of a user's manager if ``user`` is given."""
        if user is None:
            return self.execute(f"systemctl {q}")
        command = f"XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user {q}"
        return self.execute(f"su -l {shlex.quote(user)} --shell /bin/sh -c {shlex.quote(command)}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        """All properties of a unit, as ``systemctl show`` prints them."""
        status, output = self.systemctl(f"--no-pager show {shlex.quote(unit)}", user)
        if status != 0:
            raise self._error(f'retrieving systemctl info for unit "{unit}" failed with {status}')
        pairs = (line.partition("=") for line in output.splitlines())
        return {key: value for key, separator, value in pairs if separator}

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        """The value of one property of a unit, as ``systemctl show`` prints it."""
        status, output = self.systemctl(
            f"--no-pager show {shlex.quote(unit)} --property={shlex.quote(property)}", user
        )
        if status != 0 or "=" not in output:
            raise self._error(f'retrieving property {property} of unit "{unit}" failed')
        return output.strip().partition("=")[2]

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Require a unit's ActiveState to be ``require_state`` now."""
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            message = f'unit "{unit}" is "{state}", required was "{require_state}"'
            raise self._wait_failed(message)

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Run ``systemctl start`` for a unit, and return its exit code and output."""
        return self.systemctl(f"start {jobname}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Run ``systemctl stop`` for a unit, and return its exit code and output."""
        return self.systemctl(f"stop {jobname}", user)


def _full_name(unit: str) -> str:
    """The unit's name as systemd has it; like systemctl, people leave ``.service`` out."""
    return unit if unit.endswith(_SUFFIXES) else f"{unit}.service"
