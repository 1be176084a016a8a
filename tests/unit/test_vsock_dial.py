"""Dialling a guest through hybrid vsock: what each failure is called, with real sockets."""

import errno
import itertools
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attest.errors import ChannelError
from attest.support.procfs import thread_time
from attest.vmm.base import DialError, Greet
from attest.vmm.dial import DEFAULT_LIMITS, DialLimits, FailedError, Reason, dial
from attest.vmm.process import WatchedProcess
from attest.vmm.vsock import HostVsock, HybridVsock

PORT = 1024
OK = b"OK 1073741824\n"
LONG = 1000.0
"""Seconds; a test that really waited for so long would run into its own limit."""


Turn = Callable[[socket.socket], object]
"""Serves a connection, and returns None to keep it open."""


class Vmm:
    """A process that ends when told, with a word and an exit code."""

    def __init__(self, directory: Path) -> None:
        self._told = directory / "told"
        os.mkfifo(self._told)
        self.process = WatchedProcess(
            ["sh", "-c", f"read -r _ <{self._told}; echo out of luck >&2; exit 3"],
            pass_fds=(),
            stderr=directory / "log",
            on_exit=lambda _: None,
        )

    def end(self) -> None:
        self._told.write_text("go\n")


class Listener:
    """Plays the VMM's socket: each connection is served by the next of some functions."""

    def __init__(self, path: Path, *turns: Turn) -> None:
        self.connects: list[bytes] = []
        self._kept: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(turns,), daemon=True)
        self._thread.start()

    def _serve(self, turns: tuple[Turn, ...]) -> None:
        for turn in turns:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connects.append(connection.recv(64))
            if turn(connection) is not None:
                connection.close()
            else:
                self._kept.append(connection)

    def close(self) -> None:
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)  # a failed test may not have come so far
        self._thread.join()
        self._listener.close()
        for connection in self._kept:
            connection.close()


Listen = Callable[..., Listener]


def drop(_: socket.socket) -> object:
    return "close it"


def stay_silent(_: socket.socket) -> object:
    return None


def answer(data: bytes) -> Turn:
    return lambda connection: connection.sendall(data)


def living() -> str:
    return ""


@pytest.fixture
def vmm(tmp_path: Path) -> Iterator[Vmm]:
    vmm = Vmm(tmp_path)
    yield vmm
    vmm.process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vsock"


@pytest.fixture
def listen() -> Iterator[Listen]:
    listeners: list[Listener] = []

    def make(path: Path, *turns: Turn) -> Listener:
        listeners.append(Listener(path, *turns))
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.close()


def reach(
    path: Path,
    vmm: Vmm,
    timeout: float = LONG,
    console: Callable[[], str] = living,
    greet: Greet = lambda *_: None,
    limits: DialLimits = DEFAULT_LIMITS,
) -> socket.socket:
    """Dial; returns the connection that was greeted last."""
    greeted: list[socket.socket] = []

    def note(sock: socket.socket, limit: float) -> None:
        greeted.append(sock)
        greet(sock, limit)

    connect = HybridVsock(path, PORT)
    dial(
        connect, note, timeout, vmm=vmm.process, vcpus="processor", dead=console, limits=limits
    )  # fmt: skip
    return greeted[-1]


def failure(
    path: Path,
    vmm: Vmm,
    timeout: float = 0.1,
    console: Callable[[], str] = living,
    limits: DialLimits = DEFAULT_LIMITS,
) -> DialError:
    with pytest.raises(DialError) as caught:
        reach(path, vmm, timeout, console, limits=limits)
    return caught.value


def only_attempt(error: DialError) -> str:
    (attempt,) = error.attempts
    return attempt


def test_a_missing_file(path: Path, vmm: Vmm) -> None:
    before = len(os.listdir("/proc/self/fd"))
    error = failure(path, vmm)
    assert len(os.listdir("/proc/self/fd")) == before
    assert str(error) == (
        "cannot reach the agent in the guest: not reached in 0.1 s: the socket's file is missing"
    )
    assert re.match(
        r"the socket's file is missing: \d+ times, from \d\.\d\d s to \d\.\d\d s \(the VMM ",
        only_attempt(error),
    )


def test_nobody_listens(path: Path, vmm: Vmm, listen: Listen) -> None:
    listen(path).close()
    assert only_attempt(failure(path, vmm)).startswith("refused, as nobody listens on the socket: ")


def test_closed_before_ok(path: Path, vmm: Vmm, listen: Listen) -> None:
    listen(path, drop)  # and then it accepts none
    error = failure(path, vmm)
    first, last = error.attempts
    assert first.startswith("accepted, and closed before OK: once, at ")
    assert last.startswith("accepted, and no answer: ")
    assert str(error).endswith("not reached in 0.1 s: accepted, and no answer")


def test_reset_before_ok(path: Path, vmm: Vmm) -> None:
    """The other end closes with the CONNECT unread."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        error = failure(path, vmm)
        thread.join()
    assert error.attempts[0].startswith("accepted, and closed before OK: once")


def test_a_silent_listener(path: Path, vmm: Vmm, listen: Listen) -> None:
    listen(path, stay_silent)
    assert only_attempt(failure(path, vmm)).startswith("accepted, and no answer: once")


def test_a_listener_that_accepts_none(path: Path, vmm: Vmm) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        assert only_attempt(failure(path, vmm)).startswith("accepted, and no answer: ")


def test_what_is_no_vsock(path: Path, vmm: Vmm, listen: Listen) -> None:
    listen(path, answer(b"HTTP/1.1 400\n"), answer(b"-" * 64))
    error = failure(path, vmm)
    assert error.attempts[0].startswith("answered 'HTTP/1.1 400' instead of OK: once")
    assert error.attempts[1].startswith(f"answered '{'-' * 32}' instead of OK: once")


def test_what_is_no_socket(path: Path, vmm: Vmm) -> None:
    path.touch()
    error = failure(path / "vsock", vmm)
    assert only_attempt(error).startswith("not connected: Not a directory: ")


def test_one_silent_attempt_is_not_the_end(path: Path, vmm: Vmm, listen: Listen) -> None:
    listen(path, stay_silent, answer(OK))
    reach(path, vmm).close()


def test_what_fails_at_first(path: Path, vmm: Vmm, listen: Listen) -> None:
    """No file, then nobody behind it, then a guest that does not listen yet, then one that does."""

    def left_over() -> str:
        listen(path).close()
        return ""

    def listens() -> str:
        path.unlink()
        listeners.append(listen(path, drop, drop, answer(OK)))
        return ""

    listeners: list[Listener] = []
    steps = iter([left_over, listens, living, living])
    reach(path, vmm, console=lambda: next(steps)()).close()
    assert listeners[0].connects == [b"CONNECT 1024\n"] * 3


def test_what_the_guest_says_stays_in_the_connection(path: Path, vmm: Vmm, listen: Listen) -> None:
    listener = listen(path, answer(OK + b"hello"))
    with reach(path, vmm) as sock:
        assert sock.recv(64) == b"hello"
        assert sock.gettimeout() is None
        listener.close()
        assert sock.recv(64) == b""


def test_a_vmm_that_ends_during_a_silent_attempt(path: Path, vmm: Vmm, listen: Listen) -> None:
    listen(path, lambda _: vmm.end())
    error = failure(path, vmm, LONG, limits=DialLimits(first_attempt=LONG))
    assert str(error).endswith("in the guest: the VMM ended (exit code 3: out of luck)")


def test_a_vmm_that_ends_in_a_pause(path: Path, vmm: Vmm) -> None:
    def console() -> str:
        vmm.end()
        return ""

    error = failure(path, vmm, LONG, console=console, limits=DialLimits(first_pause=LONG))
    assert str(error).endswith("in the guest: the VMM ended (exit code 3: out of luck)")
    assert only_attempt(error).startswith("the socket's file is missing: once")


def test_a_vmm_that_has_ended(path: Path, vmm: Vmm) -> None:
    vmm.process.kill()
    error = failure(path, vmm, LONG)
    assert str(error).endswith("in the guest: the VMM ended (signal 9)")
    assert error.attempts == []


def test_a_guest_that_is_dead(path: Path, vmm: Vmm) -> None:
    panic = "[    1.0] Kernel panic - not syncing: Attempted to kill init!"
    error = failure(path, vmm, LONG, console=lambda: panic)
    assert str(error) == f"cannot reach the agent in the guest: the guest is dead: {panic}"


def test_a_long_path(
    tmp_path: Path, vmm: Vmm, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    with monkeypatch.context() as context:
        context.chdir(directory)
        listen(Path("vsock"), answer(OK))
    reach(directory / "vsock", vmm).close()


def silence(error: bool) -> ChannelError:
    problem = ChannelError("machine", "the agent said something else")
    problem.silent = not error
    return problem


def test_no_greeting_is_tried_again(path: Path, vmm: Vmm, listen: Listen) -> None:
    def greet(sock: socket.socket, limit: float) -> None:
        limits.append(limit)
        if len(limits) < 3:
            sock.close()
            raise silence(error=False)

    limits: list[float] = []
    listener = listen(path, answer(OK), answer(OK), answer(OK))
    reach(path, vmm, greet=greet).close()
    assert len(listener.connects) == 3
    assert limits == [5, 10, 20]  # one that says nothing has its time, and not all of it


def test_no_greeting_at_all(path: Path, vmm: Vmm, listen: Listen) -> None:
    def greet(sock: socket.socket, limit: float) -> None:
        assert limit <= 0.1
        sock.close()
        raise silence(error=False)

    listen(path, *[answer(OK)] * 20)
    with pytest.raises(DialError, match=r"not reached in 0\.1 s: ") as caught:
        reach(path, vmm, 0.1, greet=greet)
    assert caught.value.attempts[0].startswith("OK, but no greeting: ")


def test_a_wrong_greeting_is_final(path: Path, vmm: Vmm, listen: Listen) -> None:
    def greet(sock: socket.socket, limit: float) -> None:
        sock.close()
        raise silence(error=True)

    listener = listen(path, answer(OK))
    with pytest.raises(ChannelError, match="said something else"):
        reach(path, vmm, greet=greet)
    assert len(listener.connects) == 1


@pytest.mark.parametrize(
    ("used", "told"),
    [(itertools.count(1), False), (itertools.repeat(7), True), (itertools.repeat(0), False)],
    ids=["they run", "they stand still", "there are none"],
)
def test_processors_that_stand_still(
    path: Path, vmm: Vmm, monkeypatch: pytest.MonkeyPatch, used: Iterator[int], told: bool
) -> None:
    monkeypatch.setattr("attest.vmm.dial.thread_time", lambda *_: next(used))
    message = str(failure(path, vmm, 0.3, limits=DialLimits(standstill=0.05)))
    assert ("the guest has halted, or the VMM holds it" in message) is told


def test_processors_that_stand_still_for_long_are_not_waited_for(
    path: Path, vmm: Vmm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attest.vmm.dial.thread_time", lambda *_: 7)
    assert re.fullmatch(
        r"cannot reach the agent in the guest: its processors have not run for \d\.\d s: the guest "
        "has halted, or the VMM holds it",
        str(failure(path, vmm, LONG, limits=DialLimits(halted=0.1))),
    )


def test_the_time_of_threads() -> None:
    (name, pid) = (Path("/proc/self/comm").read_text().strip(), os.getpid())
    before = thread_time(pid, name[:3])
    assert before > 0
    while thread_time(pid, name[:3]) == before:
        pass
    assert thread_time(pid, "no such name") == 0


def test_attempts_have_more_and_more_time(path: Path, vmm: Vmm) -> None:
    def connect(limit: float, end: int) -> socket.socket:
        limits.append(limit)
        if len(limits) < 6:
            raise FailedError(Reason("nothing", "wait"))
        return socket.socket()

    limits: list[float] = []
    sockets: list[socket.socket] = []
    dial(connect, lambda sock, _: sockets.append(sock), LONG, vmm=vmm.process, vcpus="", dead=str)
    assert limits == [0.25, 0.5, 1, 2, 2.5, 2.5]
    sockets[0].close()


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (errno.ENODEV, "no guest has that number"),
        (errno.ECONNRESET, "reset by the guest"),
        (errno.ETIMEDOUT, "accepted, and no answer"),
        (errno.EACCES, "not connected: Permission denied"),
    ],
)
def test_the_hosts_vsock(monkeypatch: pytest.MonkeyPatch, error: int, seen: str) -> None:
    """What its errors are called; that it works is for tests/kvm, as few hosts have it."""

    class Refusing(socket.socket):
        def __init__(self, *_: int) -> None:
            super().__init__(socket.AF_UNIX)

        def connect_ex(self, address: object) -> int:
            assert address == (77, PORT)
            return error

    monkeypatch.setattr("attest.vmm.vsock.socket.socket", Refusing)
    with pytest.raises(FailedError, match=seen):
        HostVsock(77, PORT)(1, -1)
