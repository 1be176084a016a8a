"""The console: every byte to the file, and no control sequence to the terminal."""

from __future__ import annotations

import errno
import os
import re
import select
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from attest.guest.console import Alarm, Console
from attest.support.concurrency import call_in_thread
from attest.support.text import plain_text
from attest.vmm.base import ConsolePipes


class Guest:
    """A guest's ends of a console, and what the driver made of it."""

    def __init__(self, log: Path) -> None:
        output, end = os.pipe()
        self.typed, keyboard = (FileIO(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))
        self.screen = FileIO(end, "w")
        self.lines: list[str] = []
        self.alarms: list[tuple[Alarm, str]] = []
        self.troubles: list[str] = []
        self.console = Console(
            "web",
            ConsolePipes(FileIO(output), keyboard),
            log,
            on_line=self.lines.append,
            on_alarm=lambda alarm, line: self.alarms.append((alarm, line)),
            on_trouble=self.troubles.append,
        )

    def end(self) -> None:
        self.screen.close()
        self.console.join()
        self.typed.close()


def test_its_file_can_be_another_from_some_moment_on(tmp_path: Path) -> None:
    guest = Guest(tmp_path / "first")
    guest.screen.write(b"one\n")
    assert guest.console.search(re.compile("one"), 60)
    guest.console.move_log(tmp_path / "second")
    guest.screen.write(b"two\n")
    guest.end()
    assert (tmp_path / "second").read_text() == guest.console.text() == "one\ntwo\n"
    assert not (tmp_path / "first").exists()
    guest.console.move_log(tmp_path / "third")  # also at its end
    assert guest.console.text() == "one\ntwo\n"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path / "console.log")
    yield guest
    guest.end()


def test_lines_are_whole_and_the_file_has_every_byte(guest: Guest) -> None:
    raw = "one\r\ntw\x1b[31mo\x1b[0m\r\r\n\r\nünfinished".encode()
    for byte in raw:
        guest.screen.write(bytes([byte]))
    guest.end()
    assert guest.lines == ["one", "two", "ünfinished"]
    assert guest.console.log.read_bytes() == raw


def test_a_line_without_an_end_does_not_grow(guest: Guest) -> None:
    guest.screen.write(b"x" * 1_000_000)
    guest.end()
    assert max(len(line) for line in guest.lines) <= 4096
    assert sum(len(line) for line in guest.lines) == 1_000_000


@pytest.mark.parametrize(
    ("line", "alarm"),
    [
        ("[    1.5] Kernel panic - not syncing: Attempted to kill init!", Alarm.PANIC),
        ("[    1.5][   T1] Kernel panic - not syncing: VFS", Alarm.PANIC),
        ("[   12.1] BUG: kernel NULL pointer dereference, address: 00", Alarm.OOPS),
        ("[   12.1] Out of memory: Killed process 31 (java)", Alarm.OOM),
        ("[  242.1] INFO: task dd:31 blocked for more than 120 seconds.", Alarm.HUNG),
    ],
)
def test_a_kernel_in_trouble_raises_an_alarm(guest: Guest, line: str, alarm: Alarm) -> None:
    guest.screen.write(line.encode() + b"\n")
    guest.end()
    assert guest.alarms == [(alarm, line)]


def test_a_program_that_prints_the_words_raises_none(guest: Guest) -> None:
    guest.screen.write(b"Kernel panic - not syncing: says the test\n")
    guest.end()
    assert guest.alarms == []


def test_what_is_typed_arrives(guest: Guest) -> None:
    guest.console.send("ls\n")
    assert guest.typed.read(100) == b"ls\n"


def test_a_search_goes_on_from_its_last_match(guest: Guest) -> None:
    guest.screen.write(b"first\nsecond\n")
    assert guest.console.search(re.compile("first\nsecond"), 10)
    assert not guest.console.search(re.compile("first"), 0)
    guest.screen.write(b"first again")
    assert guest.console.search(re.compile("first"), 10)


def test_what_was_found_in_an_unfinished_line_is_not_found_again(guest: Guest) -> None:
    guest.screen.write(b"once ")
    assert guest.console.search(re.compile("once"), 10)
    guest.screen.write(b"more\nlast\n")
    guest.screen.close()
    assert not guest.console.search(re.compile("once"), None)
    assert guest.console.search(re.compile("more\nlast"), None)
    assert guest.lines == ["once more", "last"]


def test_lines_behind_a_match_are_for_the_next_search(guest: Guest) -> None:
    guest.screen.write(b"one\ntwo two\nthree\npart")
    assert guest.console.search(re.compile("part"), 10), "all has come"
    guest.screen.write(b" of four\nfive\nsix\nseven\nfive\n")
    guest.end()
    assert not guest.console.search(re.compile("one"), None)
    assert guest.console.search(re.compile("^ ?of four\nfive$", re.MULTILINE), None)
    assert guest.console.search(re.compile("six\n"), None)
    assert guest.console.search(re.compile("five"), None)
    assert not guest.console.search(re.compile("five"), None)


def many(count: int) -> bytes:
    return b"".join(b"line %d is \x1b[1m\xc3\xa4hnlich\x1b[0m\r\n\r\n" % n for n in range(count))


@pytest.mark.parametrize("before", [b"", b"\xff of an earlier console\nline 17 of it\n"])
def test_a_search_finds_what_is_long_past(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "log").write_bytes(before)
    guest = Guest(tmp_path / "log")
    _show(guest.screen, many(20_000) + b"x" * 10_000 + b"\nlast\n")
    guest.end()
    search = guest.console.search
    assert not search(re.compile("of an earlier|no such"), None)
    assert search(re.compile("line 17 is ähnlich\nline 18 is ähnlich$", re.MULTILINE), None)
    assert not search(re.compile("line 17 is"), None), "it was found before"
    assert search(re.compile("line 19 is"), None)
    (tmp_path / "moved").write_bytes(1000 * before)
    guest.console.move_log(tmp_path / "moved")
    for number in (8_997, 9_017, 9_019, 17_990, 17_996, 17_998, 18_000, 19_999):
        lines = f"^line {number} is.*\n(line {number + 1}|x)"
        assert search(re.compile(lines, re.MULTILINE), None), number
        assert not search(re.compile(lines, re.MULTILINE), None), number
    assert search(re.compile("x{1800}\nlast"), None)
    assert not search(re.compile("."), None)


def _cannot_read(path: Path) -> bytes:
    raise OSError(errno.EIO, "I/O error", str(path))


def test_a_log_that_cannot_be_moved_is_still_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest(tmp_path / "log")
    _show(guest.screen, many(5000))
    guest.end()
    (tmp_path / "moved").write_bytes(bytes(1000))
    monkeypatch.setattr(Path, "read_bytes", _cannot_read)
    with pytest.raises(OSError, match="I/O"):
        guest.console.move_log(tmp_path / "moved")
    assert guest.console.search(re.compile("^line 0 is", re.MULTILINE), None)


def test_a_search_goes_on_while_more_comes_than_is_kept(guest: Guest) -> None:
    found = call_in_thread(
        lambda: guest.console.search(re.compile("^wanted$", re.MULTILINE), 60), "search"
    )
    for _ in range(5):
        _show(guest.screen, many(3000))
    _show(guest.screen, b"wanted\n" + many(3000))
    assert found.result(60)


def test_without_its_file_a_search_has_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "console.log").symlink_to("/dev/full")
    guest = Guest(tmp_path / "console.log")
    _show(guest.screen, many(5000))
    guest.end()
    assert not guest.console.search(re.compile("line 2000 "), None)
    assert guest.console.search(re.compile("line 3500 "), None)


def test_a_search_ends_with_the_console(guest: Guest) -> None:
    guest.screen.close()
    assert not guest.console.search(re.compile("never"), None)


@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "\x1b[2J", "\x1bc", "\x9b31m", "\x00\x08"])
def test_no_control_sequence_survives(hostile: str) -> None:
    left = plain_text(f"a{hostile}b")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", left)
    assert (left[0], left[-1]) == ("a", "b")


def _show(screen: FileIO, data: bytes) -> None:
    """Show all of it, as a guest does, which stands still when nobody reads."""
    os.set_blocking(screen.fileno(), False)
    while data:
        assert select.select([], [screen], [], 60)[1], "the guest stands still"
        data = data[screen.write(data) :]


def test_a_full_disk_does_not_stop_the_guest_and_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "console.log").symlink_to("/dev/full")
    guest = Guest(tmp_path / "console.log")
    for number in range(20):
        _show(guest.screen, b"x" * 65_000 + b"\n%d\n" % number)  # the pipe takes one of them
    guest.end()
    assert guest.lines[-1] == "19"
    assert guest.troubles == [
        f"{tmp_path}/console.log is incomplete: [Errno 28] No space left on device"
    ]


def test_nobody_who_is_told_what_it_shows_can_stop_the_guest(tmp_path: Path) -> None:
    troubles: list[str] = []

    def fail(*_: object) -> None:
        raise ValueError("too much")

    (output, end), (typed, keyboard) = os.pipe(), os.pipe()
    console = Console(
        "web",
        ConsolePipes(FileIO(output), FileIO(keyboard, "w")),
        tmp_path / "console.log",
        on_line=fail,
        on_alarm=fail,
        on_trouble=troubles.append,
    )
    with FileIO(end, "w") as screen, console.followed(fail):
        for _ in range(20):
            _show(screen, b"[    1.5] Kernel panic - not syncing: VFS\n" + b"x" * 65_000 + b"\n")
    console.join()
    os.close(typed)
    assert console.ended
    assert len((tmp_path / "console.log").read_bytes()) > 20 * 65_000
    assert sorted(troubles) == [
        "what follows the console failed: too much",
        "what takes the console's alarms failed: too much",
        "what takes the console's lines failed: too much",
    ]
