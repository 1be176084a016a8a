"""The snapshot cache, with small files in place of snapshots and real processes as its users."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from attest.snapshot import record as record_module
from attest.snapshot.cache import Entry, NoRoomError, SnapshotCache, Stopped, Why
from attest.snapshot.shape import Shape
from tests.obtaining import obtain

MEMORY = 4 << 20
"""Bytes; a few of them are written."""

PLACE = (2 << 20) + 300_000
"""Where."""

SHAPE = Shape(
    image="0" * 64, image_name="tiny", vmm="QEMU", accelerator="tcg", cpu="a processor",
    machine="microvm", memory=4, vcpus=1, nics=1,
)  # fmt: skip

USER = """
import os, sys, threading
from pathlib import Path
import msgspec
from attest.snapshot.cache import SnapshotCache
from attest.snapshot.shape import Shape
from tests.obtaining import obtain

def say(word):
    print(word, flush=True)

def make(into):
    say("making")
    sys.stdin.readline()
    (into / "memory").write_bytes(b"memory")
    (into / "state").write_bytes(b"state")

shape = msgspec.json.decode(sys.argv[2], type=Shape)
cache = SnapshotCache(Path(sys.argv[1]))
entry = obtain(
    cache, shape, make, stop=threading.Event(), waiting=lambda: say("waiting"), broken=say
)
say((entry.path / "state").read_text())
sys.stdin.readline()
"""


BUSY_USER = """
import sys, threading
from pathlib import Path
import msgspec
from attest.snapshot.cache import SnapshotCache
from attest.snapshot.shape import Shape
from tests.obtaining import obtain

def make(into):
    for name in ("memory", "state"):
        (into / name).write_text(name)

shape = msgspec.json.decode(sys.argv[2], type=Shape)
for _ in range(100):
    cache = SnapshotCache(Path(sys.argv[1]))
    entry = obtain(
        cache, shape, make, stop=threading.Event(), waiting=lambda: None, broken=sys.exit
    )
    for name in ("state", "memory"):
        assert (entry.path / name).read_text() == name
    cache.close()
"""


KILLED_IN_DISCARD = """
import os, signal, sys, threading
from pathlib import Path
import msgspec
from attest.snapshot.cache import SnapshotCache
from attest.snapshot.shape import Shape
from tests.obtaining import obtain

shape = msgspec.json.decode(sys.argv[2], type=Shape)
cache = SnapshotCache(Path(sys.argv[1]))
entry = obtain(
    cache, shape, sys.exit, stop=threading.Event(), waiting=lambda: None, broken=sys.exit
)
rename = os.rename

def rename_and_die(*arguments, **named):
    rename(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)

os.rename = rename_and_die  # after which it is no entry any more, and before it is removed
cache.discard(entry)
"""


def fill(into: Path) -> None:
    """A sparse memory, with something in its middle, and a state."""
    with (into / "memory").open("wb") as memory:
        memory.truncate(MEMORY)
        memory.seek(PLACE)
        memory.write(b"content")
    (into / "state").write_bytes(b"state of the devices")


class Asked(NamedTuple):
    """What came of asking for an entry."""

    entry: Entry
    made: bool
    broken: list[str]


def ask(cache: SnapshotCache, memory: int = 4, fill: Callable[[Path], None] = fill) -> Asked:
    made: list[Path] = []
    broken: list[str] = []

    def make(into: Path) -> None:
        made.append(into)
        fill(into)

    entry = obtain(
        cache, shape(memory), make, stop=threading.Event(), waiting=no_wait, broken=broken.append
    )
    await_disk()
    return Asked(entry, bool(made), broken)


def await_disk() -> None:
    """Wait for those that bring entries to the disk, and hold them meanwhile."""
    for thread in threading.enumerate():
        if thread.name == "sync a snapshot":
            thread.join()


def shape(memory: int = 4) -> Shape:
    fields = {field: getattr(SHAPE, field) for field in SHAPE.__struct_fields__}
    return Shape(**{**fields, "memory": memory})


def no_wait() -> None:
    pytest.fail("nobody else makes it")


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the disk, and when, no test can see; it only takes time."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[SnapshotCache]:
    with ended(SnapshotCache(tmp_path / "snapshots")) as cache:
        yield cache


@contextmanager
def ended(cache: SnapshotCache) -> Iterator[SnapshotCache]:
    try:
        yield cache
    finally:
        cache.close()


@pytest.fixture
def other(cache: SnapshotCache) -> Iterator[SnapshotCache]:
    """The same cache, as another run has it."""
    with ended(SnapshotCache(cache.directory)) as other:
        yield other


@contextmanager
def user(
    cache: SnapshotCache, shape: Shape = SHAPE, program: str = USER
) -> Iterator[subprocess.Popen[str]]:
    """Another process that asks for an entry; `USER` ends when its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, cache.directory, encoded(shape)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def encoded(shape: Shape) -> str:
    return json.dumps({field: getattr(shape, field) for field in shape.__struct_fields__})


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def making(cache: SnapshotCache) -> list[str]:
    directory = cache.directory / "making"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def keys(cache: SnapshotCache) -> set[str]:
    return {path.name for path in cache.directory.iterdir()} - {"making"}


# Made once


def test_who_is_second_to_throw_an_entry_away_need_not_know(cache: SnapshotCache) -> None:
    entry = ask(cache).entry
    for _ in range(2):
        cache.discard(entry)
    assert cache.entries() == []
    assert ask(cache).made


def test_an_entry_is_made_once_and_found_later(cache: SnapshotCache, other: SnapshotCache) -> None:
    first = ask(cache)
    assert first.made
    assert first.entry.path.name == SHAPE.key()
    assert first.entry.saved.state.read_bytes() == b"state of the devices"
    second = ask(other)
    assert not second.made
    assert second.entry.path == first.entry.path
    assert second.entry.shape == SHAPE
    assert making(cache) == []


def test_what_is_sparse_stays_sparse(cache: SnapshotCache) -> None:
    entry = ask(cache).entry
    memory = entry.path / "memory"
    assert memory.stat().st_size == MEMORY
    assert memory.stat().st_blocks * 512 < MEMORY // 8
    assert entry.size < MEMORY // 8


def test_one_process_makes_while_the_others_wait(cache: SnapshotCache) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(user(cache)) for _ in range(4)]
        words = sorted((said(each), index) for index, each in enumerate(users))
        assert [word for word, _ in words] == ["making", "waiting", "waiting", "waiting"]
        go_on(users[words[0][1]])
        assert [said(each) for each in users] == ["state"] * 4
    assert keys(cache) == {SHAPE.key()}
    assert making(cache) == []


def test_different_entries_are_made_side_by_side(cache: SnapshotCache) -> None:
    with user(cache, shape(4)) as one, user(cache, shape(5)) as two:
        assert [said(one), said(two)] == ["making", "making"]


def test_the_next_takes_over_from_a_maker_that_is_killed(cache: SnapshotCache) -> None:
    with user(cache) as maker, user(cache) as waiter:
        words = {said(maker): maker, said(waiter): waiter}
        words["making"].kill()
        assert said(words["waiting"]) == "making"
        go_on(words["waiting"])
        assert said(words["waiting"]) == "state"
        assert making(cache) == []


def test_what_a_killed_maker_had_begun_goes(cache: SnapshotCache) -> None:
    (cache.directory / "making" / SHAPE.key() / "out").mkdir(parents=True)
    (cache.directory / "making" / SHAPE.key() / "out" / "memory").write_bytes(b"half")
    (cache.directory / "making" / shape(5).key()).mkdir()
    assert sorted(file.name for file in ask(cache).entry.path.iterdir()) == [
        "entry.json", "memory", "state", "synced",
    ]  # fmt: skip
    assert making(cache) == []


def test_a_maker_that_fails_leaves_nothing(cache: SnapshotCache) -> None:
    def fail(into: Path) -> None:
        (into / "memory").write_bytes(b"half")
        raise RuntimeError("the machine did not come up")

    with pytest.raises(RuntimeError, match="did not come up"):
        ask(cache, fill=fail)
    assert cache.entries() == []
    assert making(cache) == []
    assert ask(cache).made


def test_the_wait_for_another_maker_can_be_ended(cache: SnapshotCache) -> None:
    stop = threading.Event()
    with user(cache) as maker:
        assert said(maker) == "making"
        with pytest.raises(Stopped):
            obtain(
                cache, SHAPE, fill, stop=stop, waiting=stop.set, broken=lambda _: None
            )  # fmt: skip


def test_a_disk_without_room_is_told_before_anything_is_made(
    cache: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 60 << 20)
    with pytest.raises(NoRoomError, match=r"has 60 MiB free, the snapshot may need 68"):
        ask(cache)
    assert making(cache) == []
    free(monkeypatch, 70 << 20)
    assert ask(cache).made


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=size)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)


def test_what_killed_runs_have_left_goes_also_when_nothing_is_made(cache: SnapshotCache) -> None:
    ask(cache)
    (cache.directory / "making" / SHAPE.key()).mkdir()
    assert not ask(cache).made
    assert making(cache) == []


# Between two steps


def between(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, after a directory is opened and before it is locked."""
    before(monkeypatch, "fcntl.flock", fcntl.flock, happens)


def before(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    function: Callable[..., object],
    happens: Callable[[], object],
) -> None:
    """Let something happen once, before a function of that name is called."""

    def late(*arguments: object) -> object:
        monkeypatch.setattr(name, function)
        happens()
        return function(*arguments)

    monkeypatch.setattr(name, late)


def test_an_entry_that_is_replaced_at_this_moment_is_the_new_one(
    cache: SnapshotCache, other: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ask(other).entry
    other.close()

    def replace() -> None:
        assert other.remove(old)
        ask(other)
        other.close()

    between(monkeypatch, replace)
    entry = ask(cache).entry
    assert not other.remove(entry), "it is not held"


def test_an_entry_that_appears_at_this_moment_is_not_made_again(
    cache: SnapshotCache, other: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, "os.mkdir", os.mkdir, lambda: ask(other))  # the claim is a directory
    asked = ask(cache)
    assert (asked.made, asked.broken) == (False, [])


def test_a_claim_that_is_swept_at_this_moment_is_no_wait(
    cache: SnapshotCache, other: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(monkeypatch, other.sweep)
    assert ask(cache).made


# In use


def test_what_a_run_uses_stays(cache: SnapshotCache, other: SnapshotCache) -> None:
    entry = ask(cache).entry
    with user(cache) as reader:
        assert said(reader) == "state of the devices"
        cache.close()
        assert not other.remove(entry)
        assert other.gc(max_age=-1) == []
        assert entry.saved.state.exists()
    assert other.remove(entry)
    assert keys(cache) == set()


def test_a_child_that_is_being_started_holds_nothing(
    cache: SnapshotCache, other: SnapshotCache
) -> None:
    """It has copies of all descriptors until it executes its program."""
    entry = ask(cache).entry
    copies = [os.dup(descriptor) for descriptor in cache._held.values()]
    cache.discard(entry)
    assert keys(cache) == set()
    entry = ask(cache).entry
    copies += [os.dup(descriptor) for descriptor in cache._held.values()]
    cache.close()
    assert other.remove(entry)
    for copy in copies:
        os.close(copy)


def test_what_is_being_made_stays(cache: SnapshotCache) -> None:
    with user(cache) as maker:
        assert said(maker) == "making"
        assert cache.gc(max_age=-1) == []
        go_on(maker)
        assert said(maker) == "state"


def test_users_and_removers_do_not_disturb_each_other(cache: SnapshotCache) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(user(cache, program=BUSY_USER)) for _ in range(3)]
        removed = 0
        while any(each.poll() is None for each in users):
            removed += sum(cache.remove(entry) for entry in cache.entries())
            cache.sweep()
    assert [each.returncode for each in users] == [0, 0, 0]
    assert removed > 0


def test_an_entry_that_does_not_restore_is_gone_for_all_that_come(
    cache: SnapshotCache, other: SnapshotCache
) -> None:
    entry = ask(cache).entry
    assert ask(other).entry.path == entry.path
    cache.discard(entry)
    # The other run has it still, and can start more machines from it.
    assert entry.saved.state.read_bytes() == b"state of the devices"
    assert cache.entries() == []
    again = ask(cache)
    assert (again.made, again.broken) == (True, [])  # it was told when it was discarded
    assert keys(cache) == {SHAPE.key()}


def test_a_discarded_entry_is_neither_damaged_nor_left_by_a_killed_run(
    cache: SnapshotCache, other: SnapshotCache
) -> None:
    entry = ask(cache).entry
    ask(other)
    cache.discard(entry)
    assert list(cache.verify()) == []
    assert cache.gc(max_age=1000) == []  # the other run uses it
    assert keys(cache) == {SHAPE.key()}
    other.close()
    (removed,) = cache.gc(max_age=1000)
    assert (removed.key, removed.why) == (SHAPE.key(), Why.WITHDRAWN)
    assert keys(cache) == set()


def test_what_a_run_had_discarded_when_it_was_killed_is_made_anew(cache: SnapshotCache) -> None:
    with user(cache) as reader:
        assert said(reader) == "making"
        go_on(reader)
        assert said(reader) == "state"
        with user(cache, program=KILLED_IN_DISCARD) as killed:
            assert killed.wait() == -signal.SIGKILL
        again = ask(cache)
        assert (again.made, again.broken) == (True, [])


def test_an_entry_that_nobody_else_uses_is_removed_when_it_does_not_restore(
    cache: SnapshotCache,
) -> None:
    cache.discard(ask(cache).entry)
    assert keys(cache) == set()
    assert making(cache) == []


def test_discarding_spares_a_new_entry_of_the_same_key(
    cache: SnapshotCache, other: SnapshotCache
) -> None:
    old = ask(cache).entry
    ask(other)
    other.discard(old)
    new = ask(other)
    assert new.made
    other.close()
    cache.discard(old)
    assert not ask(other).made


def test_one_that_is_withdrawn_at_this_moment_is_not_taken_for_damaged(
    cache: SnapshotCache, other: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for it, which finds a file changed, and that at what is wrong with it."""
    entry = ask(cache).entry
    (entry.path / "state").write_text("changed")
    damage, looks = record_module.damage, []

    def withdrawn_before_the_third(path: Path) -> str:
        looks.append(path)
        if len(looks) == 3:
            cache.discard(entry)
        return damage(path)

    monkeypatch.setattr(record_module, "damage", withdrawn_before_the_third)
    again = ask(other)
    assert len(looks) >= 3
    assert (again.made, again.broken) == (True, [])


# Removed


def aged(entry: Entry, seconds: float) -> Entry:
    """The entry, used last so long ago."""
    then = time.time() - seconds
    os.utime(entry.path / "entry.json", (then, then))
    return entry


def test_entries_are_told_the_one_used_last_first(cache: SnapshotCache) -> None:
    for memory, age in ((1, 20), (2, 30), (3, 10)):
        aged(ask(cache, memory).entry, age)
    assert [entry.shape.memory for entry in cache.entries()] == [3, 1, 2]
    ask(cache, 2)
    assert [entry.shape.memory for entry in cache.entries()] == [2, 3, 1]


def test_gc_removes_what_was_not_used_for_long(cache: SnapshotCache, other: SnapshotCache) -> None:
    aged(ask(cache, 1).entry, 100)
    ask(cache, 2)
    cache.close()
    (removed,) = other.gc(max_age=50)
    assert (removed.key, removed.image_name, removed.why) == (shape(1).key(), "tiny", Why.OLD)
    assert keys(cache) == {shape(2).key()}


def test_the_limit_is_a_fifth_of_the_free_disk_with_the_cache_in_it(
    cache: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = ask(cache).entry.size
    free(monkeypatch, 100 << 20)
    assert cache.limit() == int(0.2 * ((100 << 20) + size))
    free(monkeypatch, 1 << 40)
    assert cache.limit() == 20 << 30


def test_what_is_beyond_the_limit_goes_oldest_use_first(cache: SnapshotCache) -> None:
    for memory, age in ((1, 20), (2, 40), (3, 30), (4, 10)):
        size = aged(ask(cache, memory).entry, age).size
    cache.close()
    with ended(SnapshotCache(cache.directory, largest=3 * size)) as small:
        ask(small, 5)
    assert keys(cache) == {shape(memory).key() for memory in (1, 4, 5)}
    (removed,) = SnapshotCache(cache.directory, largest=2 * size).gc(max_age=1000)
    assert (removed.key, removed.why) == (shape(1).key(), Why.LIMIT)


def test_what_cannot_be_read_counts_and_goes_first(cache: SnapshotCache) -> None:
    for memory in (1, 2):
        size = ask(cache, memory).entry.size
    cache.close()
    (cache.directory / shape(2).key() / "entry.json").unlink()
    with ended(SnapshotCache(cache.directory, largest=3 * size)) as small:
        ask(small, 3)
        assert keys(cache) == {shape(memory).key() for memory in (1, 2, 3)}
        ask(small, 4)
    assert keys(cache) == {shape(memory).key() for memory in (1, 3, 4)}


def test_a_damaged_entry_is_told_by_its_user_whoever_else_makes_something(
    cache: SnapshotCache, other: SnapshotCache
) -> None:
    garble(ask(cache, 1).entry.path / "entry.json")
    cache.close()
    ask(other, 2)
    assert ask(cache, 1).broken != []


def test_what_is_in_use_stays_beyond_the_limit(cache: SnapshotCache, other: SnapshotCache) -> None:
    aged(ask(cache, 1).entry, 20)
    aged(ask(other, 2).entry, 10)
    other.close()
    with ended(SnapshotCache(cache.directory, largest=0)) as smallest:
        ask(smallest, 3)
        assert keys(cache) == {shape(1).key(), shape(3).key()}


def test_gc_removes_what_killed_runs_have_left(cache: SnapshotCache) -> None:
    ask(cache)
    left = cache.directory / "making" / shape(5).key()
    left.mkdir()
    (left.parent / f"{shape(6).key()}.12345678").mkdir()
    (cache.directory / shape(7).key()).mkdir()
    mine = cache.directory / "lost+found"
    mine.mkdir()
    assert {(removed.key, removed.why) for removed in cache.gc(max_age=1000)} == {
        (shape(5).key(), Why.LEFT),
        (shape(6).key(), Why.LEFT),
        (shape(7).key(), Why.UNREADABLE),
    }
    assert keys(cache) == {SHAPE.key(), "lost+found"}
    assert making(cache) == []


# Damaged


def flip(path: Path, place: int = PLACE) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def garble(path: Path) -> None:
    path.write_bytes(b'{"shape": \xff')


def foreign(path: Path) -> None:
    """The record of another entry."""
    content = json.loads(path.read_bytes())
    content["shape"]["memory"] += 1
    path.write_text(json.dumps(content))


FAULTS: Sequence[tuple[str, Callable[[Path], None], str]] = [
    ("memory", flip, "memory: it was changed"),
    ("memory", rewrite, "memory: it was changed"),
    ("memory", truncate, "memory: 4194303 bytes, 4194304 were written"),
    ("memory", Path.unlink, "memory: No such file"),
    ("state", lambda path: flip(path, 3), "state: it was changed"),
    ("state", truncate, "state: 19 bytes, 20 were written"),
    ("state", Path.unlink, "state: No such file"),
    ("entry.json", garble, "entry.json: "),
    ("entry.json", truncate, "entry.json: "),
    ("entry.json", Path.unlink, "entry.json: "),
    ("entry.json", foreign, "entry.json: it is that of another entry"),
]
NAMES = [f"{name}-{getattr(fault, '__name__', 'flip')}" for name, fault, _ in FAULTS]


@pytest.mark.parametrize(("name", "fault", "words"), FAULTS, ids=NAMES)
def test_a_damaged_entry_is_made_anew(
    cache: SnapshotCache, name: str, fault: Callable[[Path], None], words: str
) -> None:
    fault(ask(cache).entry.path / name)
    again = ask(cache)
    assert again.made
    (wrong,) = again.broken
    assert wrong.startswith(words)
    assert not ask(cache).made
    assert keys(cache) == {SHAPE.key()}


@pytest.mark.parametrize(("name", "fault", "words"), FAULTS, ids=NAMES)
def test_verify_removes_a_damaged_entry(
    cache: SnapshotCache, name: str, fault: Callable[[Path], None], words: str
) -> None:
    fault(ask(cache, 4).entry.path / name)
    ask(cache, 5)
    cache.close()
    found = {path.name: wrong for path, wrong in cache.verify()}
    assert found[shape(4).key()].startswith(words)
    assert found[shape(5).key()] == ""
    assert keys(cache) == {shape(5).key()}


def hide(entry: Entry, name: str) -> None:
    """Make the record agree with the file's time of change: as when the disk itself forgets."""
    path = entry.path / "entry.json"
    content = json.loads(path.read_bytes())
    content["files"][name]["changed_ns"] = (entry.path / name).stat().st_ctime_ns
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("place", [0, 12_345, PLACE, MEMORY - 1])
def test_verify_finds_a_bit_that_the_disk_has_flipped(cache: SnapshotCache, place: int) -> None:
    entry = ask(cache).entry
    flip(entry.path / "memory", place)
    hide(entry, "memory")
    assert not ask(cache).made  # too many bytes to look at before each use
    cache.close()
    ((path, wrong),) = cache.verify()
    assert (path, wrong) == (entry.path, "memory: its content is not what was written")
    assert keys(cache) == set()


def test_a_flipped_bit_of_the_state_is_found_at_use(cache: SnapshotCache) -> None:
    entry = ask(cache).entry
    flip(entry.path / "state", 3)
    hide(entry, "state")
    assert ask(cache).broken == ["state: its content is not what was written"]


def test_a_damaged_entry_in_use_is_not_offered_again(
    cache: SnapshotCache, other: SnapshotCache
) -> None:
    entry = ask(cache).entry
    flip(entry.path / "memory")
    assert [wrong for _, wrong in other.verify()] != [""]
    assert other.entries() == []
    assert ask(other).made
    # Those who have it keep its files as long as they live.
    assert len(making(cache)) == 1
    cache.close()
    other.sweep()
    assert making(cache) == []


def test_verify_finds_content_that_has_moved(cache: SnapshotCache) -> None:
    entry = ask(cache).entry
    content = (entry.path / "memory").read_bytes()
    half = MEMORY // 2
    (entry.path / "memory").write_bytes(content[half:] + content[:half])
    hide(entry, "memory")
    assert [wrong for _, wrong in cache.verify()] == ["memory: its content is not what was written"]


def test_holes_and_zeros_are_the_same_content(cache: SnapshotCache) -> None:
    def fill_with_zeros(into: Path) -> None:
        fill(into)
        (into / "memory").write_bytes((into / "memory").read_bytes())

    ask(cache, 4)
    ask(cache, 5, fill=fill_with_zeros)
    digests = [
        json.loads((cache.directory / shape(memory).key() / "entry.json").read_bytes())["files"]
        for memory in (4, 5)
    ]
    assert digests[0]["memory"]["sha256"] == digests[1]["memory"]["sha256"]


# Of another boot


def made_in_another_boot(path: Path) -> None:
    """The record of an entry becomes that of an earlier boot of this host."""
    content = json.loads(path.read_bytes())
    assert content["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path.write_text(json.dumps({**content, "boot_id": "another boot"}))


def test_what_had_not_reached_the_disk_is_gone_with_the_boot(cache: SnapshotCache) -> None:
    entry = ask(cache, 4).entry
    unsynced = ask(cache, 5).entry
    (unsynced.path / "synced").unlink()
    for each in (entry, unsynced):
        made_in_another_boot(each.path / "entry.json")
    assert not ask(cache, 4).made
    again = ask(cache, 5)
    assert again.broken == ["the host went down before it had reached the disk"]
    assert again.made
    assert entry.path.exists()


def test_whoever_uses_an_entry_brings_it_to_the_disk(
    cache: SnapshotCache, other: SnapshotCache
) -> None:
    entry = ask(cache).entry
    (entry.path / "synced").unlink()  # as when its maker ended at once
    ask(other)
    assert (entry.path / "synced").exists()


def test_what_is_on_its_way_to_the_disk_stays(
    cache: SnapshotCache, other: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_its_way, go_on = threading.Event(), threading.Event()

    def fsync(_descriptor: int) -> None:
        on_its_way.set()
        go_on.wait()

    monkeypatch.setattr("os.fsync", fsync)
    entry = obtain(cache, SHAPE, fill, stop=threading.Event(), waiting=no_wait, broken=pytest.fail)
    cache.close()
    on_its_way.wait()
    try:
        assert not other.remove(entry)
    finally:
        go_on.set()
        await_disk()
    assert other.remove(entry)


def test_an_entry_whose_files_change_when_it_is_renamed_is_refused_once(
    cache: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system: it must not be made for ever."""
    write: Callable[..., Any] = record_module.write_record

    def write_too_early(directory: Path, shape: Shape) -> None:
        write(directory, shape)
        rewrite(directory / "memory")

    monkeypatch.setattr(record_module, "write_record", write_too_early)
    with pytest.raises(OSError, match="memory: it was changed"):
        ask(cache)
