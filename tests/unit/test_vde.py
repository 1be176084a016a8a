"""The VDE switch, with programs that are connected as QEMU would be."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attest.net import helper
from attest.net.vde import ADDRESS, REQUEST, join

_EVERYBODY = b"\xff" * 6
_A, _B = b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b"

Plug = Callable[[], tuple[socket.socket, socket.socket]]


def _request(path: str) -> bytes:
    return REQUEST.pack(0xFEEDFACE, 3, 0) + ADDRESS.pack(socket.AF_UNIX, path.encode())


def _frame(target: bytes, source: bytes, text: bytes = b"text") -> bytes:
    return target + source + b"\x08\x00" + text


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    """The ``ctl`` of a switch."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = tmp_path / "ctl"
        listener.bind(str(path))
        listener.listen()
        switch = subprocess.Popen(
            [*helper("vde"), str(listener.fileno()), str(tmp_path)],
            pass_fds=[listener.fileno()],
        )
    try:
        yield path
        assert switch.poll() is None
    finally:
        switch.kill()
        switch.wait()


@pytest.fixture
def plug(control: Path, tmp_path: Path) -> Iterator[Plug]:
    """Connects a program: its connection, and the socket of its frames."""
    sockets: list[socket.socket] = []

    def connect() -> tuple[socket.socket, socket.socket]:
        connection, frames = join(control, tmp_path / f"program{len(sockets)}")
        (tmp_path / f"program{len(sockets)}").unlink()  # as libvdeplug does
        frames.settimeout(10)
        sockets.extend((connection, frames))
        return connection, frames

    yield connect
    for sock in sockets:
        sock.close()


def _quiet(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(65_536)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(10)
    return False


def test_a_frame_for_everybody_reaches_all_others(plug: Plug) -> None:
    (_, a), (_, b), (_, c) = plug(), plug(), plug()
    a.send(_frame(_EVERYBODY, _A))
    assert b.recv(2000) == c.recv(2000) == _frame(_EVERYBODY, _A)
    assert _quiet(a)


def test_it_learns_who_is_where(plug: Plug) -> None:
    (_, a), (_, b), (_, c) = plug(), plug(), plug()
    a.send(_frame(_B, _A, b"unknown"))
    assert b.recv(2000) == c.recv(2000)
    b.send(_frame(_A, _B, b"answer"))
    assert a.recv(2000) == _frame(_A, _B, b"answer")
    a.send(_frame(_B, _A, b"known"))
    assert b.recv(2000) == _frame(_B, _A, b"known")
    assert _quiet(c)


def test_large_frames_pass(plug: Plug) -> None:
    (_, a), (_, b) = plug(), plug()
    a.send(_frame(_EVERYBODY, _A, bytes(9000)))
    assert b.recv(65_536) == _frame(_EVERYBODY, _A, bytes(9000))


def test_who_leaves_is_forgotten(plug: Plug, control: Path) -> None:
    (_, a), (leaving, b), (_, c) = plug(), plug(), plug()
    b.send(_frame(_EVERYBODY, _B))
    a.recv(2000)
    c.recv(2000)
    leaving.close()
    deadline = time.monotonic() + 30
    while len(list(control.parent.glob("port*"))) > 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    c.send(_frame(_EVERYBODY, _B, b"moved"))
    assert a.recv(2000) == _frame(_EVERYBODY, _B, b"moved")
    a.send(_frame(_B, _A))
    assert c.recv(2000) == _frame(_B, _A)


def test_frames_wait_for_a_slow_receiver(plug: Plug) -> None:
    (_, a), (_, b) = plug(), plug()
    b.send(_frame(_EVERYBODY, _B))
    a.recv(2000)
    held = min(int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()), 250)  # by the kernel
    sent = [_frame(_B, _A, number.to_bytes(2, "big")) for number in range(held + 200)]
    for frame in sent:
        a.send(frame)
    assert [b.recv(2000) for _ in sent] == sent


@pytest.mark.parametrize(
    "greeting",
    [b"", b"\0" * 122, b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 200, _request("/nonesuch")],
)
def test_what_is_no_request_is_turned_away(control: Path, plug: Plug, greeting: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(control))
        stranger.sendall(greeting)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(200) == b""
    (_, a), (_, b) = plug(), plug()
    a.send(_frame(_EVERYBODY, _A))
    b.recv(2000)


def test_a_frame_that_is_none_is_dropped(plug: Plug) -> None:
    (_, a), (_, b) = plug(), plug()
    a.send(b"short")
    a.send(_frame(_EVERYBODY, _A))
    assert b.recv(2000) == _frame(_EVERYBODY, _A)
