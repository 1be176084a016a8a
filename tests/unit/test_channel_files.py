"""Files and trees through a real agent on this host; ATTEST_COPY_MIB sets the large file's size."""

import hashlib
import os
import resource
import stat
from pathlib import Path

import pytest

from attest.errors import MachineError
from attest.guest.agent.channel import AgentChannel
from attest.guest.channel import Command

SIZE = int(os.environ.get("ATTEST_COPY_MIB", "1024")) << 20


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size)))


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """What is to be kept of each file below ``root``."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = path.lstat()
        kind: object = os.readlink(path) if path.is_symlink() else None
        kind = path.read_bytes() if kind is None and path.is_file() else kind
        mode = None if path.is_symlink() else stat.S_IMODE(info.st_mode)
        owner = (info.st_uid, info.st_gid)
        found[str(path.relative_to(root))] = (kind, mode, info.st_mtime_ns, owner)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o755)
    (root / "file").write_bytes(b"content")
    (root / "none").touch()
    (root / "deep" / "er" / ("n" * 200)).write_bytes(bytes(1000))
    (root / "deep" / "ümläut \n newline").write_bytes(b"x" * 513)
    (root / "deep" / "exec").write_bytes(b"#!/bin/sh\n")
    (root / "deep" / "exec").chmod(0o751)
    (root / "deep" / "up").symlink_to("../file")
    (root / "deep" / "dangling").symlink_to("nowhere")
    (root / "again").hardlink_to(root / "file")
    if os.geteuid() == 0:
        os.chown(root / "none", 1234, 5678)
        os.chown(root / "deep" / "up", 1234, 5678, follow_symlinks=False)
    (root / "deep").chmod(0o555)
    for number, path in enumerate([*sorted(root.rglob("*")), root]):
        times = (0, 1_234_567_890_123_456_789 + number)
        os.utime(path, ns=times, follow_symlinks=False)
    return root


def test_a_tree_goes_in_and_comes_back_as_it_was(
    channel: AgentChannel, tree: Path, tmp_path: Path
) -> None:
    assert channel.put(tree, str(tmp_path / "in" / "guest")) == []
    inside = tmp_path / "in" / "guest"
    assert describe(inside) == describe(tree)
    assert (inside / "again").samefile(inside / "file")
    assert channel.get(str(inside), tmp_path / "out" / "back") == []
    back = tmp_path / "out" / "back"
    assert describe(back) == describe(tree)
    assert (back / "again").samefile(back / "file")
    assert os.listdir(tmp_path / "out") == ["back"]


def test_a_large_file_goes_both_ways(channel: AgentChannel, tmp_path: Path) -> None:
    write_random(tmp_path / "source", SIZE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    channel.put(tmp_path / "source", str(tmp_path / "inside"))
    channel.get(str(tmp_path / "inside"), tmp_path / "back")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert digest(tmp_path / "back") == digest(tmp_path / "source")
    assert grown < 16 * 1024  # KiB


def test_an_existing_directory_gets_the_file_under_its_name(
    channel: AgentChannel, tmp_path: Path
) -> None:
    (tmp_path / "source").write_text("text")
    (tmp_path / "there").mkdir()
    channel.put(tmp_path / "source", str(tmp_path / "there"))
    assert (tmp_path / "there" / "source").read_text() == "text"


def test_a_link_on_the_host_is_followed(channel: AgentChannel, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("text")
    (tmp_path / "result").symlink_to("real")
    (tmp_path / "there").mkdir()
    channel.put(tmp_path / "result", str(tmp_path / "there"))
    assert (tmp_path / "there" / "result").read_text() == "text"
    assert not (tmp_path / "there" / "result").is_symlink()


def test_what_is_no_file_is_left_out_and_reported(channel: AgentChannel, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "fifo")
    (left_out,) = channel.put(tmp_path / "tree", str(tmp_path / "inside"))
    assert left_out == f"left out: {tmp_path / 'tree' / 'fifo'} is a FIFO"
    assert os.listdir(tmp_path / "inside") == []
    (left_out,) = channel.get(str(tmp_path / "tree"), tmp_path / "back")
    assert left_out == "left out: 'fifo' is a FIFO"
    assert os.listdir(tmp_path / "back") == []
    for number in range(30):
        os.mkfifo(tmp_path / "tree" / str(number))
    for left in (
        channel.put(tmp_path / "tree", str(tmp_path / "inside")),
        channel.get(str(tmp_path / "tree"), tmp_path / "back"),
    ):
        assert left[-1] == "left out: 11 more"
        assert len(left) == 21


def test_what_is_removed_meanwhile_is_left_out_and_reported(
    channel: AgentChannel, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    write_random(tmp_path / "tree" / "a", 1 << 20)
    (tmp_path / "tree" / "b").write_text("text")

    class Vanishing(type(tmp_path)):  # type: ignore[misc]
        def resolve(self, strict: bool = False) -> "Vanishing":
            return self

        def __truediv__(self, name: str) -> Path:
            return Path("/no/such") if name == "b" else super().__truediv__(name)

    left_out = channel.put(Vanishing(tmp_path / "tree"), str(tmp_path / "inside"))
    assert left_out == ["left out: /no/such was removed while it was copied"]
    assert os.listdir(tmp_path / "inside") == ["a"]


def test_errors_name_the_place_in_the_guest(channel: AgentChannel, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").touch()
    (tmp_path / "target" / "file" / "in").mkdir(parents=True)
    with pytest.raises(MachineError, match=f": {tmp_path}/target/file: Is a directory$"):
        channel.place(tmp_path / "tree", str(tmp_path / "target"))


def test_links_that_lead_out_are_left_out_and_reported(
    channel: AgentChannel, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "tree" / "good").write_text("good")
    (left_out,) = channel.get(str(tmp_path / "tree"), tmp_path / "back")
    assert "'passwd'" in left_out
    assert "/etc/passwd" in left_out
    assert os.listdir(tmp_path / "back") == ["good"]


def test_special_bits_do_not_reach_the_host(channel: AgentChannel, tmp_path: Path) -> None:
    (tmp_path / "suid").touch()
    (tmp_path / "suid").chmod(0o6755)
    channel.get(str(tmp_path / "suid"), tmp_path / "back")
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o755


def test_what_is_not_there_is_reported(channel: AgentChannel, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"alice: cannot copy /no/such to .*No such file"):
        channel.get("/no/such", tmp_path / "back")
    with pytest.raises(FileNotFoundError):
        channel.put(tmp_path / "none", "/tmp")
    with pytest.raises(MachineError, match="cannot copy"):
        channel.put(Path("/etc/hostname"), "/proc/none/such")
    assert os.listdir(tmp_path) == []
    assert channel.run(Command("true")).status == 0


def test_a_source_that_fails_half_way_does_not_harm_the_channel(
    channel: AgentChannel, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    write_random(tmp_path / "tree" / "a", 1 << 20)
    (tmp_path / "tree" / "b").write_text("text")

    class Failing(type(tmp_path)):  # type: ignore[misc]
        def resolve(self, strict: bool = False) -> "Failing":
            return self

        def __truediv__(self, name: str) -> Path:
            if name == "b":
                raise PermissionError
            return super().__truediv__(name)

    with pytest.raises(PermissionError):
        channel.put(Failing(tmp_path / "tree"), str(tmp_path / "inside"))
    assert channel.run(Command("true")).status == 0


def test_many_copies_at_once(channel: AgentChannel, tree: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def copy(number: int) -> None:
        channel.put(tree, str(tmp_path / f"in{number}"))
        channel.get(str(tmp_path / f"in{number}"), tmp_path / f"out{number}")
        assert describe(tmp_path / f"out{number}") == describe(tree)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, range(8)))
