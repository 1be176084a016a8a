"""Threads that tell what happens, and listeners that raise."""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attest.support.listeners import tell
from attest.vmm.base import VmmExit
from attest.vmm.process import WatchedProcess
from attest.vmm.qemu.qmp import Qmp


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be on standard error, as of threads that end by an exception."""
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda each: told.append(str(each.exc_value)))
    return told


def _fail(*_: object) -> None:
    raise ValueError("too much")


def test_what_a_listener_raises_is_reported_and_nothing_else(reported: list[str]) -> None:
    tell(_fail, 1)
    assert reported == ["too much"]


def test_an_end_is_told_although_nothing_more_is_known_of_it(
    tmp_path: Path, reported: list[str]
) -> None:
    told: queue.SimpleQueue[VmmExit] = queue.SimpleQueue()

    def unknown(exit: VmmExit) -> VmmExit:
        raise ValueError("too much")

    process = WatchedProcess(
        [sys.executable, "-c", "import sys; sys.exit('last words')"],
        pass_fds=(),
        stderr=tmp_path / "log",
        on_exit=told.put,
        complete=unknown,
    )
    exit = process.wait(60)
    assert exit == VmmExit(1, False, "last words\n")
    assert told.get(timeout=60) == exit
    process.kill()  # waits for the thread, too
    assert reported == ["too much"]


class _Qemu:
    """The other end of a QMP session."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._say({"QMP": {"version": {}, "capabilities": []}})
        threading.Thread(target=self._answer, daemon=True).start()

    def event(self, name: str) -> None:
        stamp = {"seconds": 1, "microseconds": 0}
        self._say({"event": name, "data": {}, "timestamp": stamp})

    def _answer(self) -> None:
        while request := self._sock.recv(65_536):  # one at a time, and short
            self._say({"return": {}} | {k: v for k, v in json.loads(request).items() if k == "id"})

    def _say(self, message: dict[str, Any]) -> None:
        self._sock.sendall(json.dumps(message).encode() + b"\r\n")


@pytest.fixture
def qemu() -> Iterator[tuple[socket.socket, _Qemu]]:
    ours, theirs = socket.socketpair()
    with theirs:
        yield ours, _Qemu(theirs)


def test_events_of_qemu_come_after_one_whose_listener_raised(
    qemu: tuple[socket.socket, _Qemu], reported: list[str]
) -> None:
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()

    def hear(name: str, data: dict[str, Any]) -> None:
        heard.put(name)
        if name == "STOP":
            raise ValueError("too much")

    session = Qmp("web", qemu[0], hear, lambda: "it still runs", reply_limit=30)
    session.execute("query-status")  # before it is greeted, QEMU tells of no events
    qemu[1].event("STOP")
    qemu[1].event("RESET")
    assert [heard.get(timeout=60), heard.get(timeout=60)] == ["STOP", "RESET"]
    assert session.next_event(lambda event: event["event"] == "RESET", 60)
    session.close()
    assert reported == ["too much"]
