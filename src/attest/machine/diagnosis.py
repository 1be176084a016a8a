"""What to tell of an instance that did not come up, died, or is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attest.errors import AttestError, MachineError, WaitFailed, reason_of
from attest.guest.console import Console
from attest.machine.instance_states import Phase, Stage, State
from attest.support.excerpt import short_line
from attest.vmm.base import VmmExit

__all__ = ["absence", "blame_snapshot", "error_at", "exit_error", "not_up"]

_PANIC_LINES: Final = 100
"""Console lines in which a panic is looked for: its report can be that long."""

_BEFORE_PANIC: Final = 5
"""Console lines before a panic that are shown with it: what died may have said why."""

_LINES: Final = 20
"""Console lines that are shown where there is no panic."""


def error_at(
    name: str, message: str, state: State, console: Console, attempts: list[str] | None = None
) -> MachineError:
    """An error with the stage that the machine has reached, and its last console lines.

    Args:
        name: The machine's name.
        message: What is wrong.
        state: The instance as it is.
        console: Its console.
        attempts: What was tried, each with its reason for failing.
    """
    lines = console.last_lines(_PANIC_LINES if state.panic else _LINES)
    if state.panic in lines:  # what comes long before is the tail of something else
        lines = lines[max(lines.index(state.panic) - _BEFORE_PANIC, 0) :]
    lines = [short_line(line) for line in lines]
    message = f"{message} [stage: {state.stage}]"
    return MachineError(name, message, console=lines, log=str(console.log), attempts=attempts)


def disk_error(name: str, data: Mapping[str, Any]) -> MachineError:
    """What it means that QEMU has stopped a guest whose disk it cannot read or write.

    Args:
        name: The machine's name.
        data: Of QEMU's event BLOCK_IO_ERROR, see its qapi/block-core.json.
    """
    disk, reason = data.get("device") or data.get("node-name"), data.get("reason")
    if data.get("nospace"):
        return MachineError(
            name,
            f"it stands still: the host's disk is full, so its disk {disk} cannot be written",
            hint="what machines write is in TMPDIR, /tmp by default",
        )
    return MachineError(name, f"it stands still: its disk {disk} failed on the host: {reason}")


def exit_error(name: str, exit: VmmExit, state: State, console: Console) -> MachineError:
    """What the end of a VMM means that nobody wanted."""
    if state.panic:
        return error_at(name, f"kernel panic: {state.panic}", state, console)
    error = error_at(name, f"the VMM ended ({exit})", state, console)
    if exit.status == 0 and not exit.stderr:
        error.hint = (
            "a kernel that ends without a word mostly has too little memory"
            if state.stage is Stage.VMM
            else "the guest powered off, or rebooted, which `allow_reboot = true` lets it"
        )
    return error


def not_up(
    name: str, error: Exception, state: State, console: Console, *, late: float | None
) -> MachineError:
    """Why a guest that boots is not ready.

    Args:
        name: The machine's name.
        error: What failed.
        state: The instance as it is.
        console: Its console.
        late: The seconds that its start may take, where they have passed.
    """
    if isinstance(error, WaitFailed):
        message = f"started, but is not ready: {error.message}"
        return error_at(name, message, state, console)
    if not isinstance(error, MachineError):
        return error_at(name, f"did not come up: {reason_of(error)}", state, console)
    if late is None:
        message = f"did not come up: {error.reason}"
        return error_at(name, message, state, console, error.attempts)
    message = f"did not come up in {late:g} s; the last stage that it reached is: {state.stage}"
    return error_at(name, message, state, console, [*error.attempts, error.reason])


def absence(state: State, exit: VmmExit | None) -> str:
    """Why nobody is there; empty when the agent answers, and has been told who it is.

    Args:
        state: The instance as it is.
        exit: How its VMM has ended; None while it runs, or before it was started.
    """
    failure = state.outcome.error if state.outcome is not None else None
    if state.phase is Phase.FAILED and failure is not None:
        return failure.message
    if state.phase is not Phase.OFF and exit is None:
        return "" if state.introduced else f"coming up [stage: {state.stage}]"
    if state.stage is Stage.OFF and failure is not None:
        return failure.message
    if state.panic:
        return f"kernel panic: {state.panic}"
    failed = exit is not None and exit.status != 0 and not state.ending
    return f"the VMM ended ({exit})" if failed else "off"


def blame_snapshot(error: AttestError, seconds: float) -> None:
    """Say in the hint of a clone's death that its snapshot may be the reason.

    Args:
        error: The death.
        seconds: How long after its first answer it came.
    """
    error.hint = (
        f"it died {seconds:.1f} s after it had been restored from a snapshot, which its kernel may "
        "not survive"
    )
