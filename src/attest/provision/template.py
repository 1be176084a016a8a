"""The machine that boots for a snapshot, and goes on as the first of its clones.

It boots off its networks and is nobody. When it is ready it stands still while its memory and its
disks are copied, and runs on: from then on it is plugged in and told who it is, as a clone is. So
who starts a test for the first time waits for one boot, and not for a clone after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

import msgspec

from attest.errors import HostError
from attest.events import EventLog, Kind
from attest.guest.channel import Channel
from attest.node.launcher import Launcher
from attest.provision.preparation import NotSavedError, bring_to, not_saved
from attest.snapshot.cache import Entry, Making
from attest.snapshot.shape import Shape
from attest.vmm.base import OnEvent, OnExit, Vmm

__all__ = ["Claim", "Template"]


class Claim(msgspec.Struct):
    """A snapshot that is to be made by this cluster, and by nobody else meanwhile.

    Attributes:
        shape: Of what.
        making: Where it is made.
        entry: What becomes of it; None where it could not be saved. Others wait for it.
    """

    shape: Shape
    making: Making
    entry: Future[Entry | None]

    def publish(self) -> None:
        """Let it be found, by those who wait for it and by later runs.

        Raises:
            OSError: It cannot be written; it is still to `fail`.
        """
        self.entry.set_result(self.making.publish())

    def fail(self, error: BaseException | None) -> None:
        """Let nobody wait for it any more.

        Args:
            error: Why those who do would not come up either; None: they boot.
        """
        self.making.give_up()
        if error is None:
            self.entry.set_result(None)
        else:
            self.entry.set_exception(error)


class Template:
    """What such a machine does beside booting, see `attest.machine.contracts.Template`.

    Args:
        launcher: The machine's.
        claims: What it is to be saved as, one after the other.
        publish: Called with each that was saved; returns at once.
        events: Where everything that happens is reported.

    Attributes:
        ready_unit: The systemd unit that must be active before it is saved; empty: none.
    """

    def __init__(
        self,
        launcher: Launcher,
        claims: Sequence[Claim],
        publish: Callable[[Claim], None],
        events: EventLog,
    ) -> None:
        self.ready_unit = launcher.node.warm_until
        self._launcher = launcher
        self._claims = deque(claims)
        self._publish = publish
        self._events = events

    def start_vmm(
        self,
        allow_reboot: bool,
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> Vmm:
        """Start its VMM, off the networks."""
        return self._launcher.start_apart(allow_reboot, on_exit, on_event)

    def save(self, channel: Channel, vmm: Vmm, reach_again: Callable[[], None]) -> None:
        """Bring the machine to where its clones begin, and save it.

        That it cannot be saved is told, and does not disturb the machine.

        Args:
            channel: The connection to its agent.
            vmm: Its VMM.
            reach_again: Called whenever it runs on: the connection may be lost then.

        Raises:
            CommandFailed: A warm step failed.
            AttestError: The machine has ended, or does not answer.
            Exception: Its VMM does not let it run on.
        """
        launcher, before = self._launcher, None
        for shape in [claim.shape for claim in self._claims]:
            try:
                bring_to(shape, before, launcher, channel, self._events)
                if self._claims:
                    self._save(vmm, reach_again)
            except NotSavedError as error:
                self._warn(f"no snapshot could be made: {error}")
                while self._claims:
                    self._claims.popleft().fail(None)
            before = shape
        launcher.is_new = False
        vmm.forget_events()

    def give_up(self, error: BaseException | None) -> None:
        """Let it be a machine like any other, see `attest.machine.contracts.Template`."""
        if error is None:
            self._warn("no snapshot could be made: it rebooted before it was ready")
        while self._claims:
            self._claims.popleft().fail(error)

    def plug_in(self) -> None:
        """Put the machine on its networks."""
        with suppress(HostError):  # they may be gone already
            self._launcher.set_cables(True)

    def _save(self, vmm: Vmm, reach_again: Callable[[], None]) -> None:
        claim, disks = self._claims[0], self._launcher.disks
        into = claim.making.directory
        text = f"save {self._launcher.node.image.name} for later starts: {claim.shape.state}"
        with self._events.span(Kind.ACTION, text, machine=self._launcher.name):
            try:
                vmm.save_running(into)
                disks.copies(disks.files, into)
            except Exception as error:
                raise not_saved(error, into) from error
            finally:
                vmm.resume()
                reach_again()
        # In the background: what is written is hashed first.
        self._publish(self._claims.popleft())

    def _warn(self, text: str) -> None:
        self._events.emit(Kind.WARNING, text, machine=self._launcher.name)
