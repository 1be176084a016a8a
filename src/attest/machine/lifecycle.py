"""A machine's instances, one after the other: the present one, how it is started and left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from attest.errors import ChannelError, MachineError, WaitFailed
from attest.events import Event, EventLog
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
        self._standby: tuple[Instance, EventLog] | None = None

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
            allow_reboot = allow_reboot or self._allow_reboot
            if self._call(allow_reboot=allow_reboot):
                return
            if self.instance is not None:
                self.instance.kill()
            self._begin(None, allow_reboot=allow_reboot)

    def stand_by(self, *, allow_reboot: bool = False) -> None:
        """Let an instance come up for the next start, ahead of it; the machine is off meanwhile.

        Nothing happens when it was started before, or cannot come up so. What is told of the
        instance is held back until the start.

        Args:
            allow_reboot: The guest may reboot by itself; a start that says otherwise does without.
        """
        with self._lock:
            if self.instance is not None or self._standby or self._context.ahead is None:
                return
            self._context.require_open()
            events = EventLog(held=True)
            events.subscribe(self._pass_on)
            instance = Instance(
                self.name, replace(self._context, events=events), self._source,
                allow_reboot=allow_reboot or self._allow_reboot, ahead=self._context.ahead,
            )  # fmt: skip
            self._standby = instance, events
            instance.begin()

    def await_standby(self) -> None:
        """Wait until the instance for the next start stands by, where one comes up for it."""
        if (standby := self._standby) is not None:
            standby[0].await_standby()

    def _pass_on(self, event: Event) -> None:
        self._context.events.emit(event.kind, event.text, machine=event.machine, **event.data)

    def _call(self, *, allow_reboot: bool) -> bool:
        """Start with the instance that has come up ahead; False where there is none that can."""
        if self._standby is None:
            return False
        (instance, events), self._standby = self._standby, None
        if instance.may_be_called and instance.allow_reboot == allow_reboot:
            self.instance = instance
            events.release()
            instance.call()
            return True
        self._dismiss(instance)
        return False

    def forget(self) -> None:
        """End the machine as if it had never been started, which only a node's can."""
        with self._lock:
            if self.instance is not None:
                self._dismiss(self.instance)
                self.instance = None

    def _dismiss(self, instance: Instance) -> None:
        """End an instance as if it had never been."""
        assert self._context.ahead is not None, "it is no start script's"
        instance.kill()
        self._context.ahead.set_cables(True)
        self._context.ahead.forget()

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

    def answering(self) -> Channel | None:
        """The connection to its agent, if it is ready now; starts and awaits nothing."""
        return self.instance.answering() if self.instance else None

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
            if self._standby is not None:
                (instance, _), self._standby = self._standby, None
                self._dismiss(instance)
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
        for each in self._instances():
            each.want_end()

    def close(self) -> None:
        """End the machine without ceremony, at the end of its cluster."""
        for each in self._instances():
            each.kill()

    def _instances(self) -> list[Instance]:
        standby = self._standby
        return [each for each in (self.instance, standby and standby[0]) if each is not None]

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
        if instance is not None:
            instance.served()
