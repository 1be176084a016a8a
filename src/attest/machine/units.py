"""systemd in a machine."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from attest.errors import WaitFailed
from attest.events import Kind
from attest.guest.channel import Command, WaitFor, WaitKind, unmet
from attest.machine.completed import text_of
from attest.machine.waits import Waits
from attest.support import arguments
from attest.support.durations import Duration, seconds
from attest.support.polling import DEFAULT_TIMEOUT, tries
from attest.support.text import last_lines
from attest.support.validation import check_choice

if TYPE_CHECKING:
    from attest.guest.unit_probe import FinishProbe, UnitProbe

__all__ = ["Units"]

_SUFFIXES: Final = (
    ".service", ".socket", ".target", ".device", ".mount", ".automount", ".swap", ".timer",
    ".path", ".slice", ".scope",
)  # fmt: skip


_STATES: Final = (
    "active", "inactive", "failed", "activating", "deactivating", "reloading", "refreshing",
    "maintenance",
)  # fmt: skip
"""All that a unit's ActiveState can be."""

_LOOK: Final = 30.0
"""Seconds that a look at a unit may take, whatever the time limit of its wait."""


class Units(Waits):
    """Units and jobs of the machine's systemd, and of its users'."""

    def wait_for_unit(
        self,
        unit: str,
        user: str | None = None,
        timeout: Duration = DEFAULT_TIMEOUT,
        state: str = "active",
    ) -> None:
        """Wait until a systemd unit is active, or in another state.

        What it was in for a moment only, another state than this may have hidden. A unit that does
        its work and ends is waited for by `wait_until_unit_finishes`.

        Args:
            unit: Its name; ``.service`` may be left out.
            user: Whose it is; default: the system's.
            timeout: Seconds, or a timedelta.
            state: Its ActiveState, such as ``"inactive"`` or ``"failed"``. It is inactive once
                no job is to start it.

        Raises:
            WaitFailed: It failed, or is inactive with nothing pending, is masked or not there, or
                ``timeout`` seconds passed; has the last lines of its journal.
        """
        method = f"{self.name}: wait_for_unit"
        name = _full_name(unit, user, method)
        limit = seconds(timeout, f"{method}: timeout")
        check_choice(state, _STATES, f"{method}: state")
        what = f"unit {unit}" if user is None else f"unit {unit} of {user}"
        what += "" if state == "active" else f" to be {state}"
        try:
            if user is None:
                self._wait(what, WaitFor(WaitKind.UNIT, name, limit, wanted=state))
            else:
                from attest.guest.unit_probe import UnitProbe

                probe = UnitProbe(name, state, user)
                self._probe_unit(what, name, f"become {state}", limit, user, probe)
        except WaitFailed as error:
            raise self._with_journal(name, user, error) from None

    def wait_until_unit_finishes(
        self, unit: str, user: str | None = None, timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Wait until a unit has done its work, since the machine booted, with success.

        That is for units of ``Type=oneshot``, with ``RemainAfterExit=yes`` or not, and others that
        end by themselves. One that runs again is waited for again.

        Example::

            machine.succeed("systemd-run --no-block --unit=backup --property=Type=oneshot sleep 1")
            machine.wait_until_unit_finishes("backup.service")

        Args:
            unit: Its name; ``.service`` may be left out.
            user: Whose it is; default: the system's.
            timeout: Seconds, or a timedelta.

        Raises:
            WaitFailed: It failed, or has not run, with nothing pending that would start it; its
                conditions were not met, it is masked or not there; or ``timeout`` seconds passed.
                Has the last lines of its journal.
        """
        from attest.guest.unit_probe import FinishProbe

        method = f"{self.name}: wait_until_unit_finishes"
        name = _full_name(unit, user, method)
        limit = seconds(timeout, f"{method}: timeout")
        what = f"unit {unit} to finish" if user is None else f"unit {unit} of {user} to finish"
        try:
            self._probe_unit(what, name, "finish", limit, user, FinishProbe(name, user))
        except WaitFailed as error:
            raise self._with_journal(name, user, error) from None

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

    def _probe_unit(
        self,
        what: str,
        unit: str,
        verb: str,
        timeout: float,
        user: str | None,
        probe: UnitProbe | FinishProbe,
    ) -> None:
        """Look at a unit again and again; a user's manager may still have to come up.

        The agent watches the system's manager only: whoever asks a user's must be that user.
        """
        from attest.guest.unit_probe import HopelessError

        with self._events.span(Kind.WAIT, f"wait for {what}", machine=self.name) as span:
            if self._channel.welcome.init != "systemd":
                seen = "this guest's init is not systemd"
                raise self._wait_failed(unmet(f"unit {unit}", verb, seen))
            if user is not None and self._quietly(f"id -u -- {shlex.quote(user)}", _LOOK)[0]:
                raise self._wait_failed(unmet(f"unit {unit}", verb, f"there is no user {user}"))
            for left in tries(timeout):
                try:
                    so, seen = probe.judge(self._quietly(probe.command, max(left, _LOOK))[1])
                except HopelessError as error:
                    message = unmet(f"unit {unit}", verb, str(error))
                    raise self._wait_failed(message, state=error.state) from None
                if so:
                    span.data["seen"] = seen
                    return
            raise self._wait_failed(unmet(f"unit {unit}", verb, seen, timeout))

    def _quietly(self, command: str, timeout: float) -> tuple[int, str]:
        """The exit code of a command, which is no event of its own, and all that it has said."""
        command = f"{{ {command}; }} 2>&1"
        ended = self._attempt(self._channel, Command(command, timeout=timeout))
        return ended.status, text_of(ended.stdout).strip()

    def _with_journal(self, unit: str, user: str | None, error: WaitFailed) -> WaitFailed:
        entries = f"--unit={shlex.quote(unit)}"
        if user is not None:
            whose = f"_UID=$(id -u -- {shlex.quote(user)})"
            entries = " + ".join(
                f"{shlex.quote(f'{field}={unit}')} {whose}"
                for field in ("_SYSTEMD_USER_UNIT", "USER_UNIT")
            )
        command = f"journalctl --no-pager --quiet -n 20 {entries}"
        completed = self._attempt(self._channel, Command(command, timeout=30, strict=True))
        journal = last_lines(text_of(completed.stdout))
        error.evidence = {f"last journal lines of {unit}": journal, **error.evidence}
        return error

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        """Run ``systemctl`` with the arguments ``q``, of a user's manager if ``user`` is given."""
        arguments.text(q, f"{self.name}: systemctl: q")
        _check_user(user, f"{self.name}: systemctl")
        if user is None:
            return self.execute(f"systemctl {q}")
        from attest.guest.unit_probe import as_user

        return self.execute(as_user(f"systemctl --user {q}", user))

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        """All properties of a unit, as ``systemctl show`` prints them."""
        arguments.name(unit, f"{self.name}: get_unit_info: unit")
        _check_user(user, f"{self.name}: get_unit_info")
        output = self._show(shlex.quote(unit), user)
        pairs = (line.partition("=") for line in output.splitlines())
        return {key: value for key, separator, value in pairs if separator}

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        """The value of one property of a unit, as ``systemctl show`` prints it."""
        method = f"{self.name}: get_unit_property"
        arguments.name(unit, f"{method}: unit")
        arguments.name(property, f"{method}: property")
        _check_user(user, method)
        output = self._show(f"{shlex.quote(unit)} --property={shlex.quote(property)}", user)
        if "=" not in output:
            raise self._error(f"unit {unit} has no property {property}")
        return output.strip().partition("=")[2]

    def _show(self, what: str, user: str | None) -> str:
        """What ``systemctl show`` prints.

        Raises:
            MachineError: It failed; says why.
        """
        from attest.guest.unit_probe import as_user

        call = f"systemctl {'' if user is None else '--user '}show {what}"
        status, output = self.execute(f"{{ {as_user(f'{call} --no-pager', user)}; }} 2>&1")
        if status != 0:
            whose = "" if user is None else f" for {user}"
            reason = "".join(output.splitlines()[-1:])
            raise self._error(f"`{call}`{whose} failed with exit code {status}: {reason}")
        return output

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Require a unit's ActiveState to be ``require_state`` now."""
        check_choice(require_state, _STATES, f"{self.name}: require_unit_state: require_state")
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            message = f"unit {unit} is {state}, and was required to be {require_state}"
            raise self._wait_failed(message)

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Run ``systemctl start`` for a unit, and return its exit code and output."""
        arguments.name(jobname, f"{self.name}: start_job: jobname")
        return self.systemctl(f"start {jobname}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Run ``systemctl stop`` for a unit, and return its exit code and output."""
        arguments.name(jobname, f"{self.name}: stop_job: jobname")
        return self.systemctl(f"stop {jobname}", user)


def _check_user(user: str | None, method: str) -> None:
    if user is not None:
        arguments.name(user, f"{method}: user")


def _full_name(unit: str, user: str | None, method: str) -> str:
    """The unit's name as systemd has it; like systemctl, people leave ``.service`` out.

    Raises:
        UsageError: That of the unit or its user is none.
    """
    arguments.name(unit, f"{method}: unit")
    _check_user(user, method)
    return unit if unit.endswith(_SUFFIXES) else f"{unit}.service"
