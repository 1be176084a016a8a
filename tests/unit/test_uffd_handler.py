"""The page-fault handler, compiled with sanitizers, against a process that acts as Firecracker."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.support.unix_sockets import listen
from tests.unit import uffd_peer
from tests.unit.uffd_peer import HUGE, SMALL, Peer

SOURCES = Path(__file__).parents[2] / "uffd"
POOL = Path("/proc/sys/vm/nr_hugepages")
FREE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
PAGES = 8  # of each of the guest's two regions

ONE_LINE = re.compile(r"attest-uffd: [ -~]+\n")


@functools.cache
def sanitized_handler() -> Path:
    if not (shutil.which("gcc") and shutil.which("make")):
        pytest.skip("needs gcc and make")
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", SOURCES, "asan"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return SOURCES / "build" / "attest-uffd-asan"


@contextmanager
def handler(directory: Path, memory: Path) -> Iterator[subprocess.Popen[str]]:
    """A handler that listens on the socket ``uffd`` in a directory."""
    path = directory / "uffd"
    path.unlink(missing_ok=True)
    with (
        listen(path) as listener,
        subprocess.Popen(
            [sanitized_handler(), memory], stdin=listener, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        listener.close()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture(params=[pytest.param(SMALL, id="4KiB"), pytest.param(HUGE, id="2MiB")])
def page_size(request: pytest.FixtureRequest) -> Iterator[int]:
    """A page size of which there are enough pages for a guest."""
    if request.param == SMALL:
        yield SMALL
        return
    before = FREE.read_text()
    try:
        POOL.write_text(str(int(POOL.read_text()) + 2 * PAGES))
    except OSError as error:
        pytest.skip(f"only root can reserve huge pages: {error}")
    if int(FREE.read_text()) - int(before) < 2 * PAGES:
        pytest.skip("this host's memory is too fragmented for huge pages")
    yield HUGE
    POOL.write_text(str(int(POOL.read_text()) - 2 * PAGES))


@pytest.fixture
def memory(tmp_path: Path, page_size: int) -> Path:
    file = tmp_path / "memory"
    file.write_bytes(os.urandom(2 * PAGES * page_size))
    return file


@pytest.mark.parametrize(
    "act",
    [
        uffd_peer.reads,
        uffd_peer.removes,
        uffd_peer.removes_while_reading,
        uffd_peer.touches_nothing,
    ],
    ids=lambda act: act.__name__,
)
def test_a_guest_has_its_memory(
    peer: Peer, tmp_path: Path, memory: Path, page_size: int, act: Callable[..., None]
) -> None:
    with handler(tmp_path, memory) as process:
        succeed(peer, process, act, memory, page_size)


@pytest.mark.parametrize(
    "act",
    [uffd_peer.removes_what_is_awaited, uffd_peer.removes_at_once],
    ids=lambda act: act.__name__,
)
def test_a_guest_has_its_memory_while_pages_are_removed(
    peer: Peer, tmp_path: Path, memory: Path, page_size: int, act: Callable[..., None]
) -> None:
    with handler(tmp_path, memory) as process:
        succeed(peer, process, act, memory, page_size, handler=process.pid)


def succeed(
    peer: Peer,
    process: subprocess.Popen[str],
    act: Callable[..., None],
    memory: Path,
    page_size: int,
    **arguments: Any,
) -> None:
    path = str(memory.parent / "uffd")
    status = peer.run(act, path=path, file=str(memory), page_size=page_size, **arguments)
    # It sees the end of the guest by itself.
    said = process.communicate(timeout=60)[1]
    assert (status, said, process.returncode) == (0, "", 0)


def test_a_page_that_cannot_be_brought_ends_the_guest(
    peer: Peer, tmp_path: Path, memory: Path, page_size: int
) -> None:
    line = failure(
        peer, tmp_path, memory, uffd_peer.loses_its_file, file=str(memory), page_size=page_size
    )
    assert f"at byte {PAGES * page_size}: it has been cut" in line


@pytest.mark.parametrize("page_size", [HUGE], indirect=True, ids=["2MiB"])
def test_too_few_huge_pages_end_the_guest(
    peer: Peer, tmp_path: Path, memory: Path, page_size: int
) -> None:
    more = tmp_path / "more"
    with memory.open("rb") as source, more.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.truncate((int(FREE.read_text()) + 2) * page_size)
    line = failure(peer, tmp_path, more, uffd_peer.reads, file=str(more), page_size=page_size)
    assert "page of 2048 KiB" in line
    assert line.endswith(": no page of that size is free\n")


def failure(
    peer: Peer, directory: Path, memory: Path, act: Callable[..., None], **arguments: Any
) -> str:
    """The line with which a handler ends that has ended its guest."""
    with handler(directory, memory) as process:
        assert peer.run(act, path=str(directory / "uffd"), **arguments) == -signal.SIGKILL
        line = process.communicate(timeout=60)[1]
        assert process.returncode == 1
    assert ONE_LINE.fullmatch(line)
    return line


FILE_SIZE = 4 * SMALL


def region(index: int) -> dict[str, Any]:
    base = (index + 1) << 40
    return {"base_host_virt_addr": base, "size": 2 * SMALL, "offset": 0, "page_size": SMALL}


GOOD = [region(0), region(1)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("small") / "memory"
    file.write_bytes(bytes(FILE_SIZE))
    return file


def changed(**fields: Any) -> str:
    """The layout with another second region."""
    return json.dumps([GOOD[0], GOOD[1] | fields])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("[]", "is malformed at byte 1"),
        ("[{}]", "is malformed at byte 2"),
        ("x", "is malformed at byte 0"),
        (json.dumps(GOOD) + "x", "is malformed at byte"),
        ("[" * 9000, "is malformed at byte 1"),
        ("9" * 30_000, "is malformed at byte 0"),
        (changed(size="8192"), "is malformed"),
        (changed(size=-8192), "is malformed"),
        (changed(size=8192.0), "is malformed"),
        (changed(size=1 << 64), "is malformed"),
        (changed(size=None), "is malformed"),
        (changed(more={}), "is malformed"),
        (changed().replace("8192", "08192"), "is malformed"),
        (changed().replace("{", '{"size": 8192,'), "is malformed"),
        (json.dumps([{"size": 1}]), "has a region without base_host_virt_addr"),
        (changed(page_size=0), "has pages of 0 bytes"),
        (changed(page_size=2048), "has pages of 2048 bytes"),
        (changed(page_size=12_288), "has pages of 12288 bytes"),
        (changed(size=0), "has a region of 0 bytes"),
        (changed(size=4097), "has a region of 4097 bytes at 0x20000000000"),
        (changed(base_host_virt_addr=1), "has a region of 8192 bytes at 0x1"),
        (changed(base_host_virt_addr=(1 << 64) - 4096), "at 0xfffffffffffff000"),
        (changed(page_size=HUGE), "has a region of 8192 bytes"),
        (changed(offset=8193), "of 8192 bytes at byte 8193 of a file of 16384 bytes"),
        (changed(offset=(1 << 64) - 4096), "of a file of 16384 bytes"),
        (changed(size=1 << 62, offset=0), "of a file of 16384 bytes"),
        (changed(base_host_virt_addr=1 << 40), "has two regions at 0x10000000000"),
        (changed(base_host_virt_addr=(1 << 40) + 4096), "has two regions at 0x10000001000"),
        (changed(base_host_virt_addr=(1 << 40) - 4096), "has two regions at 0xfffffff000"),
        (json.dumps([region(index) for index in range(65)]), "has more than 64 regions"),
        ("[\0]", "holds a NUL byte"),
    ],
)
def test_a_layout_that_is_none_ends_the_guest(
    peer: Peer, tmp_path: Path, small: Path, message: str, reason: str
) -> None:
    assert reason in failure(peer, tmp_path, small, uffd_peer.says, message=message)


@pytest.mark.parametrize("descriptors", [0, 2])
def test_a_layout_without_one_userfaultfd_ends_the_guest(
    peer: Peer, tmp_path: Path, small: Path, descriptors: int
) -> None:
    message = json.dumps(GOOD)
    line = failure(peer, tmp_path, small, uffd_peer.says, message=message, descriptors=descriptors)
    assert "without one userfaultfd" in line


def test_no_layout_ends_the_guest(peer: Peer, tmp_path: Path, small: Path) -> None:
    assert "connection was closed" in failure(peer, tmp_path, small, uffd_peer.says_nothing)


def test_a_memory_that_is_not_there_ends_the_guest(peer: Peer, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    line = failure(peer, tmp_path, memory, uffd_peer.says, message=json.dumps(GOOD))
    assert line == f"attest-uffd: {memory}: No such file or directory\n"


BAD_VALUES = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=1 << 64),
    st.floats(),
    st.just("8192"),
    st.none(),
    st.booleans(),
    st.lists(st.integers(), max_size=3),
)
BAD_REGIONS = st.one_of(
    st.builds(
        changed, base_host_virt_addr=st.integers(0, (1 << 64) - 1).filter(lambda n: n % SMALL)
    ),
    st.builds(changed, size=st.integers(2 * SMALL + 1, (1 << 64) - 1).map(lambda n: n | 1)),
    st.builds(changed, offset=st.integers(2 * SMALL + 1, (1 << 64) - 1)),
    st.builds(
        changed, page_size=st.integers(0, 1 << 64).filter(lambda n: n not in (SMALL, 2 * SMALL))
    ),
    st.sampled_from(list(GOOD[0])).flatmap(
        lambda name: st.builds(lambda value: changed(**{name: value}), BAD_VALUES)
    ),
)
TEXT = json.dumps(GOOD)
TRUNCATED = st.integers(1, len(TEXT) - 1).map(lambda length: TEXT[:length])
# Each of these characters makes it malformed wherever it is put.
INTERSPERSED = st.builds(
    lambda at, char: TEXT[:at] + char + TEXT[at:],
    st.integers(0, len(TEXT)),
    st.sampled_from('\0"{}[]:,.-+\\\x80A'),
)
NOISE = st.binary(min_size=1, max_size=300).map(lambda bytes: bytes.decode("latin-1"))


@settings(max_examples=150)
@given(message=BAD_REGIONS | TRUNCATED | INTERSPERSED | NOISE)
def test_any_layout_that_is_none_ends_the_guest(peer: Peer, small: Path, message: str) -> None:
    failure(peer, small.parent, small, uffd_peer.says, message=message)
