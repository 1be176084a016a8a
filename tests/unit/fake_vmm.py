"""A VMM and the agent in its guest, for instances that need none: a test says what they do."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from attest.errors import ChannelError
from attest.guest.channel import Command, Completed, PowerAction, WaitFor, Welcome
from attest.guest.identity import Identity
from attest.vmm.base import ConsolePipes, DialError, Greet, Saved, VmmExit


class FakeGuest:
    """What a guest does, of which there can be several VMMs one after the other.

    Attributes:
        answers: Its agent answers.
        unit_active: The unit that makes it ready is active.
        resets_on_power: What it does when it is told to leave.
        vmms: All VMMs that were started for it.
        identities: Who it was told to be.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.answers = True
        self.unit_active = True
        self.on_power: Callable[[PowerAction], None] = lambda action: None
        self.refuses_to_start: list[Exception] = []
        self.refuses_to_resume: list[Exception] = []
        self.kind: Literal["serial", "vsock"] = "serial"
        self.vmms: list[FakeVmm] = []
        self.channels: list[FakeChannel] = []
        self.identities: list[Identity] = []
        self.started_from: list[Saved | None] = []

    def set(self, **values: Any) -> None:
        with self.changed:
            vars(self).update(values)
            self.changed.notify_all()

    def start(
        self,
        allow_reboot: bool,
        saved: Saved | None,
        on_exit: Callable[[VmmExit], None],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> FakeVmm:
        self.started_from.append(saved)
        if self.refuses_to_start:
            raise self.refuses_to_start.pop(0)
        with self.changed:
            self.vmms.append(FakeVmm(self, on_exit, on_event))
            self.changed.notify_all()
        return self.vmms[-1]

    def make_channel(self, name: str, sock: socket.socket, padding: bool) -> FakeChannel:
        self.channels.append(FakeChannel(self, name))
        return self.channels[-1]

    def await_vmm(self, number: int = 1) -> FakeVmm:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.vmms) >= number, 30)
            return self.vmms[number - 1]


class FakeVmm:
    """One VMM; `end` ends it."""

    name = "m"

    def __init__(
        self,
        guest: FakeGuest,
        on_exit: Callable[[VmmExit], None],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.guest = guest
        self.channel = guest.kind
        self.exit: VmmExit | None = None
        self.resumed = False
        self.on_event = on_event
        output, self._print = os.pipe()
        _keyboard, typed = os.pipe()
        os.close(_keyboard)
        self.console = ConsolePipes(FileIO(output), FileIO(typed, "w"))
        self._lock = threading.Lock()
        self.watcher = threading.Thread(target=self._watch, args=[on_exit], daemon=True)
        self.watcher.start()
        self.sock, self._other = socket.socketpair()

    def _watch(self, on_exit: Callable[[VmmExit], None]) -> None:
        with self.guest.changed:
            self.guest.changed.wait_for(lambda: self.exit is not None)
        assert self.exit is not None
        on_exit(self.exit)

    def say(self, line: str) -> None:
        os.write(self._print, f"{line}\n".encode())

    def reset(self) -> None:
        self.on_event("RESET", {"guest": True})

    def end(self, status: int, *, expected: bool = False) -> None:
        with self._lock:
            if self.exit is None:
                self.exit = VmmExit(status, expected, "")
                os.close(self._print)
                self.sock.close()
                self._other.close()
        with self.guest.changed:
            self.guest.changed.notify_all()

    def dial(self, greet: Greet, timeout: float, dead: Callable[[], str]) -> None:
        if self.channel == "serial":
            greet(self.sock, timeout)
            return
        with self.guest.changed:
            self.guest.changed.wait_for(lambda: self.guest.answers or self.exit, timeout)
        if self.exit:
            raise DialError(f"cannot reach the agent in the guest: the VMM ended ({self.exit})")
        greet(self.sock, timeout)

    @property
    def pid(self) -> int:
        return 1

    def wait(self, timeout: float | None = None) -> VmmExit | None:
        with self.guest.changed:
            self.guest.changed.wait_for(lambda: self.exit is not None, timeout)
        return self.exit

    def resume(self) -> None:
        if self.guest.refuses_to_resume:
            raise self.guest.refuses_to_resume.pop(0)
        self.resumed = True

    def pause(self) -> None:
        self.resumed = False

    def kill(self) -> None:
        self.end(-9, expected=True)
        if threading.current_thread() is not self.watcher:
            self.watcher.join()

    def abandon(self) -> None:
        self.end(-9, expected=True)
        self.console.close()

    def drain(self) -> None: ...
    def save(self, directory: Path) -> Saved:
        raise NotImplementedError

    def save_running(self, directory: Path) -> Saved:
        raise NotImplementedError

    def fork_disks(self, fresh: Sequence[Path]) -> None: ...
    def set_link(self, index: int, up: bool) -> None: ...


class FakeChannel:
    """The connection to the guest's agent."""

    welcome = Welcome(2, init="systemd")

    def __init__(self, guest: FakeGuest, name: str) -> None:
        self.guest = guest
        self.name = name
        self.ended = ""
        self.closed = False
        self.sessions = 0

    def _wait(self, what: Callable[[], bool], timeout: float) -> None:
        """Wait until something is so, or until the session or the VMM ends."""
        vmm = self.guest.vmms[-1]
        with self.guest.changed:
            self.guest.changed.wait_for(lambda: what() or self.ended or vmm.exit, timeout)
        if self.ended or vmm.exit:
            raise ChannelError(self.name, self.ended or "the machine closed its connection")
        if not what():
            error = ChannelError(self.name, "the agent did not answer")
            error.silent = True
            raise error

    def connect(self, timeout: float) -> Welcome:
        self._wait(lambda: self.guest.answers, timeout)
        with self.guest.changed:
            self.sessions += 1
            self.guest.changed.notify_all()
        return self.welcome

    def reconnect(self, sock: socket.socket, reason: str, *, padding: bool = True) -> None:
        self.interrupt(reason)
        self.ended = ""

    def interrupt(self, reason: str) -> None:
        with self.guest.changed:
            self.ended = reason
            self.guest.changed.notify_all()

    def close(self) -> None:
        self.interrupt("the channel is closed")
        self.closed = True

    def identity(self, identity: Identity) -> None:
        self.guest.identities.append(identity)

    def run(self, command: Command) -> Completed:
        return Completed(0, b"", b"")

    def start_wait(self, wanted: WaitFor) -> FakeWait:
        return FakeWait(self, wanted.timeout)

    def power(self, action: PowerAction) -> None:
        self.guest.on_power(action)

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


class FakeWait:
    """A wait for the unit that makes the machine ready."""

    def __init__(self, channel: FakeChannel, timeout: float) -> None:
        self.channel = channel
        self.timeout = timeout

    def cancel(self) -> None: ...
    def result(self, timeout: float | None = None) -> str:
        self.channel._wait(lambda: self.channel.guest.unit_active, self.timeout)
        return "active"
