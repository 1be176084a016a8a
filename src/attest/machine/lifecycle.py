"""Starting a machine, ending it, saving it and going back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from attest.errors import ChannelError, MachineError
from attest.events import Kind
from attest.guest.channel import Channel, PowerAction
from attest.life import Life, MachineContext, Return, Stage
from attest.pauses import DEFAULT_TIMEOUT
from attest.vmm.base import Saved, Vmm

__all__ = ["Lifecycle"]


class Lifecycle:
    """A machine's lives, and what all else that is done to it goes through.

    Attributes:
        name: Its name.
        out_dir: Where its logs and the test's artefacts go.
        state_dir: A directory of its own on this host; the files of a start script are there.
        shared_dir: A directory on this host that all machines may share; NixOS's test guests have
            it at ``/tmp/shared``.
    """

    def __init__(self, name: str, context: MachineContext) -> None:
        self.name = name
        self.out_dir = context.out_dir
        self.state_dir = context.state_dir
        self.shared_dir = context.shared_dir
        self._context = context
        self._events = context.events
        self._lock = threading.RLock()
        self._life: Life | None = None

    def __repr__(self) -> str:
        return f"<machine {self.name}: {self.stage}>"

    # Starting and ending

    @property
    def stage(self) -> Stage:
        """How far it has come since its last start."""
        return self._life.stage if self._life else Stage.OFF

    @property
    def booted(self) -> bool:
        """It has been started and has not ended."""
        return self._life is not None and not self._life.ended

    @property
    def connected(self) -> bool:
        """Its agent answers.

        A script that sets it to False, as after ``kexec``, says that the guest begins anew: what
        comes next waits for that.
        """
        return self.booted and self.stage.reached(Stage.AGENT)

    @connected.setter
    def connected(self, connected: bool) -> None:
        if self._life is not None and self.connected and not connected:
            self._life.ready()
            self._life.begin_anew("the test says that the guest begins anew")

    @property
    def absence(self) -> str:
        """Why nobody is there who would answer; empty when somebody is."""
        return self._life.absence if self._life else "not started"

    def is_up(self) -> bool:
        """It has been started and its agent answers."""
        return self.connected

    @property
    def pid(self) -> int | None:
        """Process id of its VMM on the host, or None while it is off."""
        return self._life.vmm.pid if self._life and self.booted else None

    def start(self, allow_reboot: bool = False) -> None:
        """Start the machine and return at once; nothing happens when it is up.

        Args:
            allow_reboot: A reboot of the guest boots it again; otherwise it ends the machine.
        """
        with self._lock:
            if self.booted:
                return
            if self._life is not None:
                self._life.kill()
            self._life = Life(self.name, self._context, allow_reboot)

    def connect(self) -> None:
        """Wait until the machine is ready; start it first when it is off.

        Raises:
            MachineError: It did not come up; says at which stage it stopped.
        """
        self._alive().ready()

    @property
    def channel(self) -> Channel:
        """The connection to its agent; starts the machine and waits until it is ready."""
        return self._alive().ready()

    def shutdown(self) -> None:
        """Power the machine off in an orderly way and wait for its end."""
        if not self.booted:
            return
        with self._events.span(Kind.ACTION, "shut down", machine=self.name):
            self._leave(PowerAction.POWER_OFF)
            self.wait_for_shutdown()

    def crash(self) -> None:
        """End the machine at once, as a power cut does."""
        life = self._life
        if life is None:
            return
        if self.booted:
            with self._events.span(Kind.ACTION, "crash", machine=self.name):
                life.kill()
        life.accept_death()

    def reboot(self) -> None:
        """Reboot in an orderly way; it must have been started with ``allow_reboot=True``."""
        with self._events.span(Kind.ACTION, "reboot", machine=self.name):
            life = self._alive()
            if not life.allow_reboot:
                raise MachineError(self.name, "reboot() needs start(allow_reboot=True)")
            life.reboot(DEFAULT_TIMEOUT)

    def go_back(self, saved: Saved, name: str, together: threading.Barrier) -> None:
        """Begin to go back to what was saved; it runs when all who share ``together`` can."""
        with self._lock:
            channel = self.leave(name)
            allow_reboot = self._life.allow_reboot if self._life else False
            back = Return(saved, _restored(name), channel, together)
            self._life = Life(self.name, self._context, allow_reboot, back)

    def leave(self, name: str) -> Channel | None:
        """End this life, so that it can `go_back`; its channel, where it has one, stays open."""
        return self._life.leave(_restored(name)) if self._life else None

    def reach_again(self) -> None:
        """Connect to its agent anew, where the connection did not outlive that it was saved."""
        if self._life is not None:
            self._life.reach_again("the machine was saved")

    @property
    def vmm(self) -> Vmm:
        """Its VMM, which may have ended; of a machine that was started."""
        if self._life is None:
            raise self._error("it was not started")
        return self._life.vmm

    def wait_for_shutdown(self) -> None:
        """Wait until the machine has ended by itself."""
        life = self._life
        if life is None:
            return
        with self._events.span(Kind.WAIT, "wait for the machine to power off", machine=self.name):
            life.ending = True
            if life.vmm.wait(DEFAULT_TIMEOUT) is None:
                raise self._error(f"did not power off in {DEFAULT_TIMEOUT:g} s")
            life.kill()

    def _leave(self, action: PowerAction) -> None:
        channel = self.channel
        self._alive().ending = True
        channel.power(action)

    def expect_end(self) -> None:
        """From now on the end of its VMM is no failure."""
        if self._life is not None:
            self._life.ending = True

    def close(self) -> None:
        """End the machine without ceremony, at the end of its cluster."""
        if self._life is not None:
            self._life.kill()

    # Inside

    def _alive(self) -> Life:
        if self._life is not None and (death := self._life.death) is not None:
            raise death  # a fresh machine in its place would hide that
        self.start()
        assert self._life is not None
        return self._life

    def _error(self, message: str) -> MachineError:
        return MachineError(self.name, message)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A lost channel is mostly the machine's end: say what became of it."""
        life = self._life
        try:
            yield
        except ChannelError as error:
            if life is None:
                raise
            raise life.explain(error) from None


def _restored(name: str) -> str:
    return f"the machine was restored to {name!r}"
