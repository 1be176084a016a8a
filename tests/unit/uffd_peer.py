"""Does what Firecracker does with a page-fault handler, in processes that the handler may kill.

As a script it reads requests, a line of JSON each: the name of an act, and its arguments. Each runs
in a child of its own. It prints the child's process id, and when that has ended, how.
"""

import ctypes
import fcntl
import json
import mmap
import os
import platform
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)  # gives the interpreter up while it calls
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]
SYS_MADVISE = {"x86_64": 28, "aarch64": 233}[platform.machine()]
PAGE_FAULT = -1  # what the kernel calls a wait outside of a system call
UFFD_USER_MODE_ONLY, UFFD_API, UFFD_FEATURE_EVENT_REMOVE = 1, 0xAA, 8
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_REGISTER_MODE_MISSING = 0xC018AA3F, 0xC020AA00, 1
MAP_NORESERVE, MAP_HUGETLB, PR_SET_PDEATHSIG = 0x4000, 0x40000, 1
SMALL, HUGE = 4096, 2 << 20


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def userfaultfd() -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY
    uffd = checked(LIBC.syscall(SYS_USERFAULTFD, flags))
    fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", UFFD_API, UFFD_FEATURE_EVENT_REMOVE, 0))
    return uffd


class Region:
    """A part of a guest's memory, which nobody has touched."""

    def __init__(self, size: int, page_size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._mmap = mmap.mmap(-1, size, flags | (MAP_HUGETLB if page_size == HUGE else 0))
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._mmap))
        self.size = size
        self.page_size = page_size

    def register(self, uffd: int) -> None:
        wish = struct.pack("QQQQ", self.base, self.size, UFFDIO_REGISTER_MODE_MISSING, 0)
        fcntl.ioctl(uffd, UFFDIO_REGISTER, wish)

    def read(self, page: int) -> bytes:
        buffer = ctypes.create_string_buffer(self.page_size)
        ctypes.memmove(buffer, self.base + page * self.page_size, self.page_size)
        return buffer.raw

    def write(self, page: int, contents: bytes) -> None:
        ctypes.memmove(self.base + page * self.page_size, contents, len(contents))

    def remove(self, first: int, count: int) -> None:
        address = ctypes.c_void_p(self.base + first * self.page_size)
        length = ctypes.c_size_t(count * self.page_size)
        checked(LIBC.madvise(address, length, mmap.MADV_DONTNEED))


class Guest:
    """A guest's memory in two regions, as those of x86 guests are, that is in a file."""

    def __init__(self, path: str, file: str, page_size: int) -> None:
        self.file = Path(file).read_bytes()
        self.page_size = page_size
        half = len(self.file) // 2
        self.regions = [Region(half, page_size), Region(half, page_size)]
        self.pages = half // page_size
        uffd = userfaultfd()
        for region in self.regions:
            region.register(uffd)
        self.connection = send(path, self.layout(), [uffd])

    def layout(self) -> bytes:
        """The message as Firecracker 1.15 and 1.16 send it."""
        regions = [
            {
                "base_host_virt_addr": region.base,
                "size": region.size,
                "offset": index * region.size,
                "page_size": region.page_size,
                "page_size_kib": region.page_size,
            }
            for index, region in enumerate(self.regions)
        ]
        return json.dumps(regions, separators=(",", ":")).encode()

    def saved(self, index: int, page: int) -> bytes:
        """What a page of a region is in the file."""
        start = (index * self.pages + page) * self.page_size
        return self.file[start : start + self.page_size]


def send(path: str, message: bytes, descriptors: Sequence[int]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    socket.send_fds(connection, [message], descriptors)
    return connection


class Task:
    """A call in a thread of its own, which may not fail."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(call, arguments))
        self._thread.start()

    def _run(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            call(*arguments)
        except BaseException as error:
            self._failures.append(error)

    def await_blocked(self, syscall: int) -> None:
        """Wait until the kernel makes it wait, in a system call of that number."""
        state = Path(f"/proc/self/task/{self._thread.native_id}/syscall")
        while not state.read_text().startswith(f"{syscall} "):
            time.sleep(0.001)

    def join(self) -> None:
        self._thread.join()
        assert self._failures == []


def reads(path: str, file: str, page_size: int) -> None:
    """Four threads touch all pages, each in an order of its own; changes stay."""
    guest = Guest(path, file, page_size)

    def read_all(seed: int) -> None:
        pages = [(index, page) for index in range(2) for page in range(guest.pages)]
        random.Random(seed).shuffle(pages)
        for index, page in pages:
            assert guest.regions[index].read(page) == guest.saved(index, page)

    for task in [Task(read_all, seed) for seed in range(4)]:
        task.join()
    guest.regions[1].write(0, b"written")
    assert guest.regions[1].read(0).startswith(b"written")
    assert Path(file).read_bytes() == guest.file


def removes(path: str, file: str, page_size: int) -> None:
    """What is removed, touched before or not, is zero; its neighbours are not."""
    guest = Guest(path, file, page_size)
    region, zero = guest.regions[1], bytes(page_size)
    last = guest.pages - 1
    assert region.read(last - 1) == guest.saved(1, last - 1)
    region.remove(1, last - 1)
    assert region.read(0) == guest.saved(1, 0)
    assert region.read(last) == guest.saved(1, last)
    assert guest.regions[0].read(1) == guest.saved(0, 1)
    assert [region.read(page) for page in range(1, last)] == [zero] * (last - 1)
    region.write(1, b"written")
    assert region.read(1).startswith(b"written")
    region.remove(1, 1)
    assert region.read(1) == zero


def removes_while_reading(path: str, file: str, page_size: int) -> None:
    """Threads touch pages while these are removed: a page that is gone stays gone."""
    guest = Guest(path, file, page_size)
    region, zero = guest.regions[0], bytes(page_size)
    removed = threading.Event()

    def read_on(seed: int) -> None:
        chance = random.Random(seed)
        while not removed.is_set():
            page = chance.randrange(guest.pages)
            # Its first word, since all of it can be gone when half is read.
            assert region.read(page)[:8] in (guest.saved(0, page)[:8], zero[:8])

    tasks = [Task(read_on, seed) for seed in range(4)]
    try:
        for _ in range(20):
            for page in range(guest.pages):
                region.remove(page, 1)
                assert region.read(page) == zero
    finally:
        removed.set()
    for task in tasks:
        task.join()


def removes_what_is_awaited(path: str, file: str, page_size: int, handler: int) -> None:
    """A page is removed while a thread waits for it: it is not brought from the file again."""
    guest = Guest(path, file, page_size)
    region = guest.regions[0]
    region.read(1)
    os.kill(handler, signal.SIGSTOP)
    reading = Task(region.read, 0)
    reading.await_blocked(PAGE_FAULT)
    removing = Task(region.remove, 0, 1)
    removing.await_blocked(SYS_MADVISE)
    os.kill(handler, signal.SIGCONT)
    reading.join()
    removing.join()
    assert region.read(0) == bytes(page_size)


def removes_at_once(path: str, file: str, page_size: int, handler: int) -> None:
    """Pages cannot be brought while others are removed, of which more events tell than are read
    at once; they come afterwards.
    """
    guest = Guest(path, file, page_size)
    os.kill(handler, signal.SIGSTOP)
    reading = [Task(guest.regions[0].read, page) for page in range(guest.pages)]
    for task in reading:
        task.await_blocked(PAGE_FAULT)
    removing = [Task(guest.regions[1].remove, 0, 1) for _ in range(64)]
    for task in removing:
        task.await_blocked(SYS_MADVISE)
    os.kill(handler, signal.SIGCONT)
    for task in reading + removing:
        task.join()


def loses_its_file(path: str, file: str, page_size: int) -> None:
    """The file shrinks while the guest runs, so a page cannot be brought any more."""
    guest = Guest(path, file, page_size)
    guest.regions[0].read(0)
    os.truncate(file, 0)
    guest.regions[1].read(0)


def touches_nothing(path: str, file: str, page_size: int) -> None:
    Guest(path, file, page_size)


def says(path: str, message: str, descriptors: int = 1) -> None:
    """Send anything, as Latin-1, and wait."""
    connection = send(path, message.encode("latin-1"), [userfaultfd() for _ in range(descriptors)])
    connection.recv(1)
    signal.pause()


def says_nothing(path: str) -> None:
    """Connect, and hang up."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.close()
    signal.pause()


def serve() -> None:
    for line in sys.stdin:
        act, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            checked(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
            try:
                globals()[act](**arguments)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Peer:
    """The script, as a test starts it; a context manager."""

    def __init__(self, enter: Callable[[Sequence[str]], Sequence[str]] = lambda command: command):
        self._process = subprocess.Popen(
            enter([sys.executable, __file__]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, act: Callable[..., None], **arguments: Any) -> int:
        """Start an act, and return its process id, as its process namespace has it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([act.__name__, arguments]) + "\n")
        self._process.stdin.flush()
        return self._line()

    def wait(self) -> int:
        """Wait until the act has ended, and return its exit code, or minus the signal's number."""
        return self._line()

    def run(self, act: Callable[..., None], **arguments: Any) -> int:
        child = self.start(act, **arguments)
        try:
            return self.wait()
        except BaseException:
            os.kill(child, signal.SIGKILL)  # the next act need not suffer
            self.wait()
            raise

    def _line(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    serve()
