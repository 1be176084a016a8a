"""A machine's instances, one after the other: the present one, how it is started and left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from attest.errors import ChannelError, MachineError, WaitFailed
from attest.guest.channel import Channel
from attest.machine.contracts import InstanceContext, Source
from attest.machine.instance import Instance, Return
from attest.machine.instance_states import Stage
from attest.machine.meeting import Meeting
from attest.vmm.base import Saved, Vmm

__all__ = ["Lifecycle"]


class Lifecycle:
    """Starts and ends the instances of one machine; the machine's cluster has it too.

    Methods can be called from several threads at once.

    Args:
        name: The machine's name.
        context: What an instance needs of the cluster.
        source: What the machine starts from.
        allow_reboot: Whatever `start` is told, the guest may reboot by itself.

    Attributes:
        name: The machine's name.
        instance: The present one, or the last; None before the first start.
        program: Its VMM's program, with version and path.
    """

    def __init__(
        self,
        name: str,
        context: InstanceContext,
        source: Source,
        *,
        allow_reboot: bool = False,
    ) -> None:
        self.name = name
        self.instance: Instance | None = None
        self.program = context.vmm
        self._context = context
        self._source = source
        self._allow_reboot = allow_reboot
        self._lock = threading.RLock()

    @property
    def stage(self) -> Stage:
        """How far the machine has come since its last start."""
        return self.instance.stage if self.instance else Stage.OFF

    @property
    def booted(self) -> bool:
        """Whether the machine has been started and has not ended."""
        return self.instance is not None and not self.instance.ended

    @property
    def connected(self) -> bool:
        """Whether the machine is up so far that its agent answers."""
        return self.booted and self.stage.reached(Stage.AGENT)

    @property
    def absence(self) -> str:
        """Why the machine's agent cannot answer, for people; empty when it can."""
        return self.instance.absence if self.instance else "not started"

    @property
    def vmm(self) -> Vmm:
        """Its VMM, which may have ended.

        Raises:
            MachineError: The machine was not started.
        """
        if self.instance is None:
            raise MachineError(self.name, "it was not started")
        return self.instance.vmm

    def start(self, *, allow_reboot: bool = False) -> None:
        """Start the machine and return at once; nothing happens when it is up.

        Args:
            allow_reboot: The guest may reboot by itself; otherwise that ends the machine.
        """
        with self._lock:
            if self.booted:
                return
            self._context.require_open()
            if self.instance is not None:
                self.instance.kill()
            self._begin(None, allow_reboot=allow_reboot or self._allow_reboot)

    def _begin(self, back: Return | None, *, allow_reboot: bool) -> None:
        # It is here before anything runs in it: what interrupts the next line leaves no orphan.
        self.instance = Instance(
            self.name, self._context, self._source, allow_reboot=allow_reboot, back=back
        )
        self.instance.begin()

    def alive(self) -> Instance:
        """The present instance, which is started where there is none.

        Raises:
            AttestError: The last one died: a fresh machine in its place would hide that.
        """
        with self._lock:
            instance = self.instance
            if instance is not None:
                if instance.death is None and not instance.ended:
                    return instance
                if (death := instance.death) is not None:  # it may have come between the two
                    raise death.fresh_copy()
            self.start()
            assert self.instance is not None, "it was just started"
            return self.instance

    def ready(self) -> Channel:
        """The connection to its agent; starts the machine and waits until it is ready.

        Raises:
            AttestError: It did not come up, or has died.
        """
        return self.alive().ready()

    def leave(self, reason: str) -> None:
        """End the present instance, so that the machine can `go_back`.

        Args:
            reason: What happened; whatever is under way fails with it.
        """
        if self.instance is not None:
            self.instance.leave(reason)

    def go_back(self, saved: Saved, reason: str, meeting: Meeting) -> None:
        """Begin to go back to what was saved; the machine runs when all who meet are loaded.

        Args:
            saved: What was saved of this machine.
            reason: What is told to whoever was using it.
            meeting: Where it meets all others that come back to that moment.
        """
        with self._lock:
            self.leave(reason)
            channel = self.instance.take_channel() if self.instance else None
            allow_reboot = self.instance.allow_reboot if self.instance else self._allow_reboot
            self._begin(Return(saved, reason, channel, meeting), allow_reboot=allow_reboot)

    def reach_again(self) -> None:
        """Connect to its agent anew, where the connection did not outlive that it was saved."""
        if self.instance is not None:
            self.instance.reach_again("the machine was saved")

    def want_end(self) -> None:
        """Take the end of its VMM for no failure, from now on."""
        if self.instance is not None:
            self.instance.want_end()

    def close(self) -> None:
        """End the machine without ceremony, at the end of its cluster."""
        if self.instance is not None:
            self.instance.kill()

    def console_lines(self, count: int) -> list[str]:
        """The last lines of its console; none before its VMM runs. Waits for nothing."""
        return self.instance.console_lines(count) if self.instance else []

    def console_evidence(self) -> dict[str, list[str]]:
        """What its console has shown last, for the error of something that was done in it."""
        return self.instance.console_evidence() if self.instance else {}

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Make errors of the channel say more while this goes on.

        A channel that is lost is mostly the machine's end: say what became of it. A wait that
        failed gets the last console lines.
        """
        instance = self.instance
        try:
            yield
        except WaitFailed as error:
            error.evidence |= self.console_evidence()
            raise
        except ChannelError as error:
            if instance is None:
                raise
            raise instance.explain(error) from None
