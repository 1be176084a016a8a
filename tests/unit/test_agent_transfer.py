"""PUT and GET: files and trees as tar streams."""

import io
import os
import random
import socket
import stat
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from attest.guest.tar_stream import TransferError
from attest.guest.tar_stream import pack as host_pack
from attest.guest.tar_stream import unpack as host_unpack
from tests.unit.agent_client import (
    CANCELLED,
    DONE,
    FAILED,
    GET,
    PUT,
    AgentClient,
    Result,
    agent_socket,
    client,
    root_only,
)

__all__ = ["agent_socket", "client"]

FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
MTIME_NS = 1_234_567_890_123_456_789


def pack(source: Path, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A path as the host sends it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        archive.add(source, "root")
    return stream.getvalue()


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def member(name: str, type: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = type
    info.linkname = link
    info.mode = 0o755 if type == tarfile.DIRTYPE else 0o644
    info.uid, info.gid = os.geteuid(), os.getegid()
    return info


def padded(content: bytes) -> bytes:
    """Content filled up to whole blocks, as a map is."""
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


LAYOUTS = [
    [(0, 600_000)],
    [],
    [(0, 4096)],
    [(4096, 4096), (409_600, 190_400)],
    [(8192, 300_000)],
    [(65_536 * number, 4096) for number in range(9)],
]
"""Where files of 600,000 bytes hold data."""


def sparse_file(path: Path, parts: list[tuple[int, int]], size: int) -> Path:
    """A file whose data, some of them zeros, are in these parts."""
    with path.open("wb") as file:
        for offset, length in parts:
            file.seek(offset)
            file.write(bytes(length // 2) + b"x" * (length - length // 2))
        file.truncate(size)
    return path


def layout(path: Path) -> list[tuple[int, int]]:
    """Where a file begins to hold data, and where it ends to."""
    found, end = [], 0
    with path.open("rb") as file:
        while end < path.stat().st_size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, end))
    return found


def put(client: AgentClient, path: Path | str, data: bytes, name: str = "") -> Result:
    fields = [(1, os.fsencode(path))]
    if name:
        fields.append((2, name.encode()))
    stream = client.open(PUT, fields)
    client.data(stream, data)
    client.eof(stream)
    return client.finish(stream)


def get(client: AgentClient, path: Path | str) -> tuple[Result, bytes]:
    result, stream = client.run(GET, [(1, os.fsencode(path))])
    if result.status == DONE:
        assert stream.ended == {0}
    return result, stream.stdout


def unpack(data: bytes, into: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(into, filter="tar" if os.geteuid() else "fully_trusted")
    return into / "root"


def tree(path: Path) -> Path:
    """A tree with everything in it that is carried."""
    path.mkdir()
    (path / "empty").mkdir(mode=0o700)
    (path / "empty file").touch()
    (path / "text").write_text("hello\n")
    (path / "text").chmod(0o4751)
    deep = path
    for letter in "abc":
        deep = deep / (letter * 120)
        deep.mkdir()
    (deep / ("d" * 200)).write_text("deep")
    (path / "ünï漢").write_text("named")
    (path / "random").write_bytes(random.Random(1).randbytes(1_000_003))
    (path / "relative").symlink_to("text")
    (path / "dangling").symlink_to("/no/such/" + "x" * 300)
    os.link(path / "random", path / "second name")
    for entry in [*path.rglob("*"), path]:
        os.utime(entry, ns=(0, MTIME_NS), follow_symlinks=False)
    return path


def summary(path: Path) -> dict[str, tuple[object, ...]]:
    """What must be equal of two trees."""
    found: dict[str, tuple[object, ...]] = {}
    for entry in [path, *sorted(path.rglob("*"))]:
        status = entry.lstat()
        content: object = None
        if entry.is_symlink():
            content = os.readlink(entry)
        elif entry.is_file():
            content = entry.read_bytes()
        links = status.st_nlink if entry.is_file() else None
        found[str(entry.relative_to(path))] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            links,
            content,
        )
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_put_a_tree(client: AgentClient, tmp_path: Path, format: int) -> None:
    source = tree(tmp_path / "source")
    target = tmp_path / "new" / "parents" / "target"
    assert put(client, target, pack(source, format)).status == DONE
    expected, found = summary(source), summary(target)
    if format == tarfile.GNU_FORMAT:  # it has whole seconds
        expected = {
            name: (*of[:3], 10**9 * (MTIME_NS // 10**9), *of[4:]) for name, of in expected.items()
        }
    else:  # Python writes the fraction from a float
        for entry in found:
            assert abs(found[entry][3] - MTIME_NS) < 1000  # type: ignore[operator]
        expected = {name: (*of[:3], found[name][3], *of[4:]) for name, of in expected.items()}
    assert found == expected


def test_get_a_tree(client: AgentClient, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    result, data = get(client, source)
    assert (result.status, result.value) == (DONE, "0")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {info.pax_headers["mtime"] for info in archive} == {"1234567890.123456789"}
    copied = summary(unpack(data, tmp_path / "copy"))
    expected = summary(source)
    # Python's extraction rounds times.
    assert {name: (*of[:3], *of[4:]) for name, of in copied.items()} == {
        name: (*of[:3], *of[4:]) for name, of in expected.items()
    }


def test_there_and_back(client: AgentClient, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    _, data = get(client, source)
    assert put(client, tmp_path / "copy", data).status == DONE
    assert summary(tmp_path / "copy") == summary(source)


def test_put_a_file(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new")
    (tmp_path / "target").write_text("old and longer")
    before = (tmp_path / "target").stat().st_ino
    assert put(client, tmp_path / "target", pack(tmp_path / "file")).status == DONE
    assert (tmp_path / "target").read_text() == "new"
    assert (tmp_path / "target").stat().st_ino != before
    assert sorted(os.listdir(tmp_path)) == ["file", "target"]


def test_put_into_a_directory(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new")
    (tmp_path / "directory").mkdir()
    data = pack(tmp_path / "file")
    assert put(client, tmp_path / "directory", data, name="name").status == DONE
    assert (tmp_path / "directory/name").read_text() == "new"
    assert put(client, tmp_path / "other", data, name="name").status == DONE
    assert (tmp_path / "other").read_text() == "new"
    result = put(client, tmp_path / "directory", data)
    assert (result.status, result.errno) == (FAILED, 21)
    assert os.listdir(tmp_path / "directory") == ["name"]


def test_put_merges_trees(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/new").write_text("new")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").write_text("old")
    assert put(client, tmp_path / "target", pack(tmp_path / "source")).status == DONE
    assert sorted(os.listdir(tmp_path / "target")) == ["new", "old"]


def test_put_a_link(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "source").symlink_to("anywhere")
    (tmp_path / "target").write_text("old")
    assert put(client, tmp_path / "target", pack(tmp_path / "source")).status == DONE
    assert os.readlink(tmp_path / "target") == "anywhere"


@pytest.mark.parametrize("through", ["target is a link", "parent is a link"])
def test_put_follows_links_that_the_host_names(
    client: AgentClient, tmp_path: Path, through: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("new")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    target = tmp_path / "link"
    if through == "parent is a link":
        target = target / "target"
    assert put(client, target, pack(tmp_path / "source")).status == DONE
    assert (target.resolve() / "file").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def evil(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], bytes]:
    return lambda outside: archive_of(
        *((_aimed(info, outside), content) for info, content in members)
    )


def _aimed(info: tarfile.TarInfo, outside: Path) -> tarfile.TarInfo:
    info.name = info.name.replace("OUTSIDE", str(outside))
    info.linkname = info.linkname.replace("OUTSIDE", str(outside))
    return info


ROOT = (member("root", tarfile.DIRTYPE), b"")
ESCAPES = {
    "parent": evil(ROOT, (member("root/../escaped"), b"x")),
    "parent deeper": evil(ROOT, (member("root/a/../../../outside/escaped"), b"x")),
    "absolute": evil(ROOT, (member("OUTSIDE/escaped"), b"x")),
    "another root": evil((member("rootkit"), b"x")),
    "beside": evil(ROOT, (member("other/escaped"), b"x")),
    "dot": evil(ROOT, (member("root/./escaped"), b"x")),
    "empty component": evil(ROOT, (member("root//escaped"), b"x")),
    "link": evil(
        ROOT,
        (member("root/link", tarfile.SYMTYPE, "OUTSIDE"), b""),
        (member("root/link/escaped"), b"x"),
    ),
    "link to a directory": evil(
        ROOT,
        (member("root/link", tarfile.SYMTYPE, "OUTSIDE"), b""),
        (member("root/link", tarfile.DIRTYPE), b""),
    ),
    "link as root": evil(
        (member("root", tarfile.SYMTYPE, "OUTSIDE"), b""), (member("root/escaped"), b"x")
    ),
    "link that leads nowhere as root": evil(
        (member("root", tarfile.SYMTYPE, "OUTSIDE/no"), b""), (member("root/escaped"), b"x")
    ),
    "hard link": evil(ROOT, (member("root/hard", tarfile.LNKTYPE, "OUTSIDE/secret"), b"")),
    "hard link through a parent": evil(
        ROOT, (member("root/hard", tarfile.LNKTYPE, "root/../outside/secret"), b"")
    ),
    "hard link through a link": evil(
        ROOT,
        (member("root/link", tarfile.SYMTYPE, "OUTSIDE"), b""),
        (member("root/hard", tarfile.LNKTYPE, "root/link/secret"), b""),
    ),
    "device": evil(ROOT, (member("root/device", tarfile.CHRTYPE), b"")),
    "fifo": evil(ROOT, (member("root/fifo", tarfile.FIFOTYPE), b"")),
}


@pytest.mark.parametrize("archive", ESCAPES.values(), ids=ESCAPES.keys())
def test_members_stay_in_the_target(
    client: AgentClient, tmp_path: Path, archive: Callable[[Path], bytes]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    result = put(client, tmp_path / "in" / "target", archive(outside))
    assert result.status == FAILED
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1
    assert not (tmp_path / "in" / "escaped").exists()


def test_a_file_through_a_link_replaces_the_link(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    data = archive_of(
        ROOT,
        (member("root/link", tarfile.SYMTYPE, str(tmp_path / "precious")), b""),
        (member("root/link"), b"replaced"),
    )
    assert put(client, tmp_path / "target", data).status == DONE
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "target/link").read_text() == "replaced"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "too early"),
        (bytes(1024), "too early"),
        (b"x" * 512, "checksum"),
        (archive_of((member("root"), b"x" * 5000))[:3000], "too early"),
        (archive_of((member("root"), b"x"))[:100], "too early"),
    ],
)
def test_a_broken_archive(client: AgentClient, tmp_path: Path, data: bytes, text: str) -> None:
    result = put(client, tmp_path / "target", data)
    assert result.status == FAILED
    assert text in result.message
    assert os.listdir(tmp_path) == []


def test_random_changes_of_an_archive(client: AgentClient, tmp_path: Path) -> None:
    """The sanitizers are what this asks."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / ("n" * 150)).symlink_to("x" * 150)
    (tmp_path / "source/file").write_bytes(bytes(3000))
    good = pack(tmp_path / "source")
    draw = random.Random(7)
    for number in range(150):
        bad = bytearray(good)
        at = draw.randrange(len(bad))
        bad[at : at + draw.randrange(1, 9)] = draw.randbytes(draw.randrange(1, 9))
        if draw.random() < 0.5:  # get past the checksums
            for block in range(0, len(bad) - 511, 512):
                header = bad[block : block + 512]
                header[148:156] = b" " * 8
                if header[257:262] == b"ustar":
                    bad[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        put(client, tmp_path / "targets" / str(number), bytes(bad))


def test_cancelling_a_put_leaves_nothing_half_written(client: AgentClient, tmp_path: Path) -> None:
    data = archive_of((member("root"), b"x" * 500_000))
    stream = client.open(PUT, [(1, bytes(tmp_path / "target"))])
    client.data(stream, data[:400_000])
    client.cancel(stream)
    assert client.finish(stream).status == CANCELLED
    assert os.listdir(tmp_path) == []


def test_zeros_of_an_archive_are_no_holes(client: AgentClient, tmp_path: Path) -> None:
    data = archive_of((member("root"), b"start" + bytes(8_000_000)))
    assert put(client, tmp_path / "target", data).status == DONE
    assert (tmp_path / "target").read_bytes() == b"start" + bytes(8_000_000)
    assert layout(tmp_path / "target") == [(0, 8_000_005)]


@pytest.mark.parametrize("parts", LAYOUTS)
def test_holes_go_in_and_out(
    client: AgentClient, tmp_path: Path, parts: list[tuple[int, int]]
) -> None:
    source = sparse_file(tmp_path / "source", parts, 600_000)
    packed = bytearray()
    assert host_pack(source, packed.extend) == []
    assert len(packed) < sum(size for _, size in parts) + 16 * tarfile.BLOCKSIZE
    assert put(client, tmp_path / "target", bytes(packed)).status == DONE
    result, data = get(client, tmp_path / "target")
    assert result.status == DONE
    stream = io.BytesIO(data)
    host_unpack(lambda: stream.read(1000), tmp_path / "back")
    for copy in (tmp_path / "target", tmp_path / "back", unpack(data, tmp_path / "others")):
        assert copy.read_bytes() == source.read_bytes()
        assert layout(copy) == layout(source)


def test_a_file_of_very_many_parts_is_kept_whole(client: AgentClient) -> None:
    parts = [(8192 * number, 1) for number in range((1 << 13) + 5)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:  # disks are slow at it
        source, target, back = (Path(path, name) for name in ("source", "target", "back"))
        packed = bytearray()
        host_pack(sparse_file(source, parts, 8192 * len(parts)), packed.extend)
        assert put(client, target, bytes(packed)).status == DONE
        result, data = get(client, target)
        assert result.status == DONE
        stream = io.BytesIO(data)
        host_unpack(lambda: stream.read(65_536), back)
        assert back.read_bytes() == source.read_bytes()
        assert layout(back)[:8000] == layout(source)[:8000]


@pytest.mark.parametrize(
    ("content", "records", "said"),
    [
        (padded(b"1\n0\n4\n") + b"data", {"realsize": "100"}, ""),
        (b"1\n0\n4\n", {"realsize": "100"}, "sparse map"),
        (b"", {"realsize": "100"}, "sparse map"),
        (padded(b"1\n0\n4\n") + b"dat", {"realsize": "100"}, "sparse map"),
        (padded(b"1\n0\n4\n") + b"data!", {"realsize": "100"}, "sparse map"),
        (padded(b"1\n98\n4\n") + b"data", {"realsize": "100"}, "sparse map"),
        (padded(b"2\n0\n4\n2\n4\n") + b"datadata", {"realsize": "100"}, "sparse map"),
        (padded(b"2\n8\n4\n0\n4\n") + b"datadata", {"realsize": "100"}, "sparse map"),
        (padded(b"1\n-1\n4\n") + b"data", {"realsize": "100"}, "sparse map"),
        (padded(b"99999\n"), {"realsize": "100"}, "sparse map"),
        (padded(b"9" * 40), {"realsize": "100"}, "sparse map"),
        (padded(b"1\n\n0\n4\n") + b"data", {"realsize": "100"}, "sparse map"),
        (padded(b"1\n0\n4\n") + b"data", {"realsize": "-1"}, "cannot be read"),
        (padded(b"1\n0\n4\n") + b"data", {"realsize": "100", "minor": "1"}, "cannot be read"),
        (padded(b"1\n0\n4\n") + b"data", {"realsize": "100", "map": "0,4"}, "cannot be read"),
    ],
)
def test_a_map_that_does_not_fit(
    client: AgentClient, tmp_path: Path, content: bytes, records: dict[str, str], said: str
) -> None:
    told = {"major": "1", "minor": "0", "name": "root", **records}
    info = member("root")
    info.pax_headers = {f"GNU.sparse.{key}": value for key, value in told.items()}
    data = archive_of((info, content))
    result = put(client, tmp_path / "target", data)
    stream = io.BytesIO(data)
    if not said:
        assert result.status == DONE
        assert (tmp_path / "target").read_bytes() == b"data" + bytes(96)
        return
    assert result.status == FAILED
    assert said in result.message
    with pytest.raises(TransferError):
        host_unpack(lambda: stream.read(1000), tmp_path / "target")
    assert os.listdir(tmp_path) == []


def test_get_leaves_out_what_is_no_file(client: AgentClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(tmp_path / "of \ntwo lines")
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        result, data = get(client, tmp_path)
    assert result.status == DONE
    count, *named = result.value.splitlines()
    assert (count, sorted(named)) == ("3", ["FIFO fifo", "FIFO of ?two lines", "socket socket"])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert sorted(archive.getnames()) == ["root", "root/file"]


def test_get_follows_the_link_that_is_asked_for(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    _, data = get(client, tmp_path / "link")
    assert unpack(data, tmp_path / "copy").read_text() == "text"


def test_get_files_whose_size_is_not_said(client: AgentClient, tmp_path: Path) -> None:
    _, data = get(client, "/proc/version")
    assert unpack(data, tmp_path / "copy").read_bytes() == Path("/proc/version").read_bytes()


@pytest.mark.parametrize(("path", "errno"), [("/no/such", 2), ("relative", 22), ("/dev/null", 95)])
def test_get_what_cannot_be(client: AgentClient, path: str, errno: int) -> None:
    result, _ = get(client, path)
    assert (result.status, result.errno) == (FAILED, errno)
    assert path in result.message


@pytest.mark.parametrize("inside", ["root/x", "root/d/x"])
def test_put_never_goes_through_a_link_that_came_as_the_root(
    client: AgentClient, tmp_path: Path, inside: str
) -> None:
    (tmp_path / "outside").mkdir()
    link = member("root", tarfile.SYMTYPE, str(tmp_path / "outside"))
    archive = archive_of((link, b""), (member(inside), b"escaped"))
    result = put(client, tmp_path / "target", archive)
    assert (result.status, result.errno) == (FAILED, 20)
    assert list((tmp_path / "outside").iterdir()) == []


def test_put_to_a_path_below_a_file(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = put(client, tmp_path / "file/below", archive_of((member("root"), b"")))
    assert (result.status, result.errno) == (FAILED, 20)


@root_only
def test_put_gives_files_to_their_owners(client: AgentClient, tmp_path: Path) -> None:
    info = member("root")
    info.uid, info.gid, info.mode = 3_000_000_000, 1234, 0o4755
    assert put(client, tmp_path / "target", archive_of((info, b""))).status == DONE
    status = (tmp_path / "target").stat()
    assert (status.st_uid, status.st_gid) == (3_000_000_000, 1234)
    assert stat.S_IMODE(status.st_mode) == 0o4755
    _, data = get(client, tmp_path / "target")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getmember("root").uid == 3_000_000_000
