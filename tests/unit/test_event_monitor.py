"""What Cloud Hypervisor tells of a guest, as it comes out of a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import termios
import threading
import time
from io import FileIO

from attest.vmm.cloud_hypervisor.event_monitor import GuestEvent, read_events


def told(source: str, event: str, **more: object) -> bytes:
    timestamp = {"secs": 0, "nanos": 1}
    whole = {"timestamp": timestamp, "source": source, "event": event, "properties": more or None}
    return json.dumps(whole, indent=2).encode() + b"\n\n"


def events(*parts: bytes) -> list[GuestEvent]:
    """What is told when each part comes by itself."""
    reading, writing = os.pipe()
    got: list[GuestEvent] = []
    with FileIO(reading) as pipe:
        reader = threading.Thread(target=lambda: got.extend(read_events(pipe)))
        reader.start()
        for part in parts:
            os.write(writing, part)
            until_read(reading, reader)
        os.close(writing)
        reader.join()
    return got


def until_read(pipe: int, reader: threading.Thread) -> None:
    """Wait until a thread has taken what is in a pipe."""
    while fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) != bytes(4):
        assert reader.is_alive()
        time.sleep(0.001)


def test_events_come_as_they_are_told() -> None:
    booted, reset = told("vm", "booted"), told("virtio-device", "reset", id="vsock", text="a\n\nb")
    assert events(booted, reset) == [
        GuestEvent("vm", "booted"), GuestEvent("virtio-device", "reset"),
    ]  # fmt: skip


def test_several_at_once_and_one_in_pieces() -> None:
    one, other = told("vm", "rebooting"), told("vm", "rebooted")
    expected = [GuestEvent("vm", "rebooting"), GuestEvent("vm", "rebooted")]
    assert events(one + other) == expected
    whole = one + other
    assert events(whole[:7], whole[7 : len(one) - 1], whole[len(one) - 1 :]) == expected


def test_what_is_cut_is_left_out() -> None:
    cut = told("vm", "booting")[:40]
    assert events(cut + told("vm", "booted"), told("vm", "shutdown")) == [
        GuestEvent("vm", "shutdown")
    ]
    assert events(told("vm", "shutdown") + cut) == [GuestEvent("vm", "shutdown")]


def test_what_is_no_event_is_left_out() -> None:
    other = [b"[]\n\n", b'"event"\n\n', b'{"source": "vm"}\n\n', b"\n\n"]
    assert events(*other, told("vm", "rebooted")) == [GuestEvent("vm", "rebooted")]
