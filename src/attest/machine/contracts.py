"""What an instance and a machine need of those who make them, and nothing more."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from attest.errors import AttestError
from attest.events import EventLog
from attest.guest.channel import Channel
from attest.guest.identity import Identity
from attest.machine.instance_states import DEFAULT_LIMITS, Limits
from attest.machine.interface import Interface
from attest.vmm.base import OnEvent, OnExit, Saved, Vmm

__all__ = [
    "Ahead",
    "InstanceContext",
    "MachineHost",
    "MakeChannel",
    "Source",
    "StartVmm",
    "Template",
]


class StartVmm(Protocol):
    """Starts a machine's VMM."""

    def __call__(
        self,
        allow_reboot: bool,
        saved: Saved | None,
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> Vmm:
        """Start it. Called in the instance's worker.

        Args:
            allow_reboot: The guest may reboot.
            saved: The snapshot that it continues, paused; without, it boots.
            on_exit: Called once, in a thread of the VMM's, when the VMM has ended.
            on_event: Called with each of the VMM's events, in a thread of the VMM's.
        """


class MakeChannel(Protocol):
    """Makes the connection to a guest."""

    def __call__(self, name: str, sock: socket.socket, padding: bool) -> Channel:
        """Make the connection.

        Args:
            name: The machine's name, for errors.
            sock: The socket, which is the channel's from now on.
            padding: It may carry remains of an earlier session.
        """


class Template(Protocol):
    """A machine boots, is saved on the way, and goes on as one of the clones of what was saved.

    Its methods are called in the instance's worker.
    """

    @property
    def ready_unit(self) -> str:
        """The systemd unit that must be active before it is saved; empty: none."""

    def start_vmm(
        self,
        allow_reboot: bool,
        on_exit: OnExit,
        on_event: OnEvent,
    ) -> Vmm:
        """Start its VMM, which boots, see `StartVmm`."""

    def save(self, channel: Channel, vmm: Vmm, reach_again: Callable[[], None]) -> None:
        """Do what is to be done in it once, and save it; it runs again then.

        Args:
            channel: The connection to its agent.
            vmm: Its VMM.
            reach_again: Called whenever it runs again: the connection may be lost then.

        Raises:
            AttestError: It cannot be used.
            Exception: Its VMM does not let it run again.
        """

    def give_up(self, error: BaseException | None) -> None:
        """Learn that it will not be saved, or not again.

        Args:
            error: What those meet who wait for its snapshot: why it did not come up, or `Cancelled`
                as it was ended; None: it has rebooted and goes on, and they boot.
        """

    def plug_in(self) -> None:
        """Put it on its networks, on which it has not been so far."""


class Source(Protocol):
    """What a machine starts from. Its methods are called in the instance's worker."""

    @property
    def may_boot(self) -> bool:
        """Whether the machine boots where its snapshot is of no use; otherwise that is an error."""

    def find(self) -> Saved | Template | None:
        """The snapshot to start from, how to boot so that there is one, or None to boot.

        It may take as long as a boot.

        Raises:
            Cancelled: The machine is not wanted any more.
            AttestError: It can be neither found nor made.
        """

    def report_spoilt(self, reason: str) -> None:
        """Learn why the snapshot that was found is of no use."""


class Ahead(msgspec.Struct, frozen=True):
    """What an instance needs to come up ahead of its machine's start.

    Attributes:
        console_log: The file to which its console is written until then.
        set_cables: Plugs or unplugs its network cables; the guest sees no change of its links.
        forget: Makes the machine one again that was never started.
    """

    console_log: Path
    set_cables: Callable[[bool], None]
    forget: Callable[[], None]


class InstanceContext(msgspec.Struct, frozen=True):
    """What an instance needs of its cluster.

    Attributes:
        events: Where it reports.
        vmm: Its VMM's program, with version and path.
        start_vmm: Starts its VMM.
        make_channel: Makes the connection to its guest.
        identity: Who it is to become; None when that is the guest's own business.
        ready_unit: The systemd unit that must be active before it is ready; empty: none.
        start_timeout: Seconds from start to ready.
        console_log: The file to which its console is written.
        on_fatal: Called when the run cannot go on: a kernel panic, a VMM that died. It is called in
            the instance's worker, and must not wait for the instance.
        require_open: Called before each start; raises when the cluster is not open any more.
        reset_ends_vmm: A guest that is reset, as by its own reboot, ends its VMM.
        limits: How long each step may take.
        keep_links: Called with the VMM that goes on where another one has ended with its guest's
            reset: what was unplugged stays so.
        prepare: Called in the instance's worker with the connection to a guest that has booted from
            the start, before that counts as ready: what a snapshot would have had is done here.
        ahead: What one needs that comes up ahead of its machine's start; None where none can.
    """

    events: EventLog
    vmm: str
    start_vmm: StartVmm
    make_channel: MakeChannel
    identity: Callable[[], Identity] | None
    ready_unit: str
    start_timeout: float
    console_log: Path
    on_fatal: Callable[[AttestError], None]
    require_open: Callable[[], None]
    reset_ends_vmm: bool = False
    limits: Limits = DEFAULT_LIMITS
    keep_links: Callable[[Vmm], None] = lambda _: None
    prepare: Callable[[Channel], None] | None = None
    ahead: Ahead | None = None


class MachineHost(msgspec.Struct, frozen=True):
    """What a machine has on its host, beside its instance.

    Attributes:
        out_dir: Where its logs and the test's artefacts go.
        state_dir: A directory of its own.
        shared_dir: A directory that all machines may share.
        set_links: Plugs or unplugs the network cards of its VMM.
        files_dir: What paths of files are relative to that are copied into it.
        interfaces: Those of its network cards that attest has made, in order.
    """

    out_dir: Path
    state_dir: Path
    shared_dir: Path
    set_links: Callable[[Vmm, bool], None]
    files_dir: Path
    interfaces: tuple[Interface, ...] = ()
