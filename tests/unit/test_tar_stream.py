"""Tar streams: what a hostile guest may send, and nothing of it leaves the target."""

import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest.guest.sparse_map import encode_map, sparse_records
from attest.guest.tar_stream import TransferError, pack, unpack


def reader(data: bytes, size: int = 1000) -> Callable[[], bytes]:
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


def member(name: str, type: bytes = tarfile.REGTYPE, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = type
    info.mode = 0o755 if type == tarfile.DIRTYPE else 0o644
    info.uid, info.gid = os.geteuid(), os.getegid()
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def archive(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], gnu: bool = False) -> bytes:
    data = b""
    for each in members:
        info, content = each if isinstance(each, tuple) else (each, b"")
        info.size = info.size or len(content)
        data += (
            info.tobuf(
                tarfile.GNU_FORMAT if gnu else tarfile.PAX_FORMAT, "utf-8", "surrogateescape"
            )
            + content
        )
        data += bytes(-len(content) % 512)
    return data + bytes(1024)


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, linkname=target)


ROOT = member("root", tarfile.DIRTYPE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "outside").write_text("untouched")
    return tmp_path / "inner" / "target"


@pytest.mark.parametrize("gnu", [False, True])
def test_long_names_and_links_in_either_form(target: Path, gnu: bool) -> None:
    name = "n" * 150
    data = archive(
        ROOT,
        (member(f"root/{name}"), b"content"),
        link("root/link", name),
        member("root/hard", tarfile.LNKTYPE, linkname=f"root/{name}"),
        gnu=gnu,
    )
    assert unpack(reader(data), target) == []
    assert (target / "link").read_bytes() == (target / "hard").read_bytes() == b"content"


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([ROOT, member("root/../outside")], id="dots"),
        pytest.param([ROOT, member("/etc/attest-test")], id="absolute"),
        pytest.param([member("outside")], id="other root"),
        pytest.param([ROOT, member("root//x")], id="empty part"),
        pytest.param([ROOT, member("root/./x")], id="dot"),
        pytest.param([ROOT, link("root/l", ".."), member("root/l/outside")], id="through a link"),
        pytest.param(
            [
                ROOT,
                member("root/d", tarfile.DIRTYPE),
                link("root/d/l", ".."),
                member("root/d/l/x"),
            ],
            id="through a link that stays inside",
        ),
        pytest.param(
            [ROOT, member("root/h", tarfile.LNKTYPE, linkname="root/../outside")], id="hard link"
        ),
        pytest.param(
            [ROOT, member("root/h", tarfile.LNKTYPE, linkname="/etc/passwd")],
            id="absolute hard link",
        ),
        pytest.param([link("root", "/etc/passwd")], id="root is a link"),
        pytest.param([link("root", "x"), member("root/x")], id="root is a link to follow"),
        pytest.param([ROOT, ROOT], id="root twice"),
        pytest.param([ROOT, member("root/x"), member("root/x")], id="file twice"),
        pytest.param([ROOT, link("root/x", "y"), member("root/x")], id="file through its link"),
        pytest.param([ROOT, member("root/x", tarfile.CHRTYPE)], id="device"),
        pytest.param([ROOT, member("root/x", tarfile.FIFOTYPE)], id="fifo"),
        pytest.param([ROOT, member("root/x", tarfile.GNUTYPE_SPARSE)], id="sparse"),
        pytest.param([ROOT, member("root/x", b"g")], id="global header"),
        pytest.param([], id="nothing"),
        pytest.param([ROOT, member("root/x", size=-512)], id="negative size"),
        pytest.param([ROOT, member("root/x", pax_headers={"size": "-1"})], id="negative pax size"),
        pytest.param([ROOT, member("root/x", pax_headers={"size": str(2**63)})], id="huge size"),
        pytest.param([ROOT, member("root/x", pax_headers={"mtime": "9" * 99})], id="huge time"),
        pytest.param([ROOT, member("root/x", pax_headers={"mtime": "nan"})], id="no time"),
        pytest.param([ROOT, member("root/x", pax_headers={"uid": "4294967295"})], id="uid -1"),
        pytest.param([ROOT, member("root/x", pax_headers={"path": "root/x\0y"})], id="nul"),
        pytest.param(
            [ROOT, member("root/x", pax_headers={"path": "root/" + "x" * 300})], id="long"
        ),
    ],
)
def test_what_a_guest_must_not_send_leaves_nothing(
    target: Path, members: list[tarfile.TarInfo]
) -> None:
    data = archive(*members, gnu=_negative(members))
    with pytest.raises((TransferError, OSError)):
        unpack(reader(data), target)
    assert os.listdir(target.parent) == []
    assert (target.parent.parent / "outside").read_text() == "untouched"


def _negative(members: list[tarfile.TarInfo]) -> bool:
    return any(each.size < 0 for each in members)  # only GNU's form has negative numbers


@pytest.mark.parametrize(
    ("name", "leads", "kept"),
    [
        ("root/l", "x", True),
        ("root/l", "d/x", True),
        ("root/d/l", "../x", True),
        ("root/d/l", "..", True),
        ("root/l", "..", False),
        ("root/d/l", "../..", False),
        ("root/d/l", "../../target/x", False),
        ("root/l", "/etc/passwd", False),
        ("root/l", "d/../../x", False),
        ("root/l", "d/..", False),
    ],
)
def test_links_are_kept_when_they_stay_inside(
    target: Path, name: str, leads: str, kept: bool
) -> None:
    data = archive(ROOT, member("root/d", tarfile.DIRTYPE), link(name, leads))
    left_out = unpack(reader(data), target)
    assert (target / name.removeprefix("root/")).is_symlink() == kept
    assert len(left_out) == (not kept)
    assert kept or leads in left_out[0]


def test_a_hard_link_to_what_was_left_out_is_left_out(target: Path) -> None:
    data = archive(
        ROOT, link("root/l", "/etc"), member("root/h", tarfile.LNKTYPE, linkname="root/l")
    )
    assert len(unpack(reader(data), target)) == 2
    assert os.listdir(target) == []


def test_the_report_of_what_was_left_out_is_bounded(target: Path) -> None:
    links = [link(f"root/{number}", "/etc") for number in range(1000)]
    left_out = unpack(reader(archive(ROOT, *links)), target)
    assert left_out[-1] == f"left out: {1000 - len(left_out) + 1} more"
    assert len(left_out) < 50


@pytest.mark.parametrize("old", ["file", "directory", "link"])
@pytest.mark.parametrize("new", ["file", "directory"])
def test_what_was_there_is_replaced(target: Path, old: str, new: str) -> None:
    match old:
        case "file":
            target.write_text("old")
        case "directory":
            target.mkdir()
            (target / "old").touch()
            target.chmod(0o555)
        case "link":
            target.symlink_to("../outside")
    data = archive(ROOT, (member("root/x"), b"new")) if new == "directory" else None
    unpack(reader(data or archive((member("root"), b"new"))), target)
    assert (target / "x" if new == "directory" else target).read_bytes() == b"new"
    assert os.listdir(target.parent) == ["target"]
    assert (target.parent.parent / "outside").read_text() == "untouched"


@pytest.mark.parametrize("keep", [100, 512, 700, 1030, 1536])
def test_a_stream_that_is_cut_short_leaves_nothing(target: Path, keep: int) -> None:
    data = archive(ROOT, (member("root/x"), bytes(600)))
    with pytest.raises(TransferError, match="cut short"):
        unpack(reader(data[:keep]), target)
    assert os.listdir(target.parent) == []


def test_a_guests_own_tar_may_send_any_number_of_parts(target: Path) -> None:
    parts = [(2 * number, 1) for number in range(10_000)]
    content = encode_map(parts) + b"x" * len(parts)
    info = member("root", size=len(content), pax_headers=sparse_records("root", 20_000))
    assert unpack(reader(archive((info, content))), target) == []
    assert target.read_bytes() == b"x\0" * len(parts)


def test_an_interrupt_leaves_nothing_and_what_was_there(target: Path) -> None:
    target.write_text("old")
    read = reader(archive(ROOT, (member("root/x"), bytes(5000))))
    calls = 0

    def interrupted() -> bytes:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return read()

    with pytest.raises(KeyboardInterrupt):
        unpack(interrupted, target)
    assert os.listdir(target.parent) == ["target"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("type", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_cannot_make_the_host_grow(target: Path, type: bytes) -> None:
    data = member("x", type, size=8 << 30).tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(TransferError, match="extended header of 8589934592 bytes"):
            unpack(reader(data), target)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_extended_headers_without_end_are_refused(target: Path) -> None:
    header = member("x", tarfile.XHDTYPE, size=16).tobuf(tarfile.GNU_FORMAT)
    endless = header + b"16 comment=1234\n" + bytes(496)
    with pytest.raises(TransferError, match="more than 3 extended headers"):
        unpack(reader(endless * 100), target)


@given(st.binary(max_size=600), st.integers(0, 3000))
def test_damaged_streams_are_refused_or_unpacked_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    good = archive(ROOT, (member("root/x", mtime=1.5), b"content"), link("root/l", "x"))
    data = good[:at] + noise + good[at + len(noise) :]
    directory = tmp_path_factory.mktemp("damaged")
    try:
        unpack(reader(data), directory / "in" / "target")
    except (TransferError, OSError):
        assert os.listdir(directory / "in") == []
    assert os.listdir(directory) == ["in"]


def test_what_is_packed_can_be_read_by_others(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "tree" / "again").hardlink_to(tmp_path / "tree" / "file")
    (tmp_path / "tree" / "link").symlink_to("file")
    packed = io.BytesIO()
    assert pack(tmp_path / "tree", packed.write) == []
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        assert tar.getnames() == ["root", "root/again", "root/file", "root/link"]
        content = tar.extractfile("root/again")
        assert content is not None
        assert content.read() == b"x" * 100_000
        assert tar.getmember("root/file").linkname == "root/again"


def test_a_file_that_shrinks_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(200_000))

    def shrink(data: bytes) -> None:
        os.truncate(tmp_path / "file", 0)

    with pytest.raises(OSError, match="became shorter"):
        pack(tmp_path / "file", shrink)
