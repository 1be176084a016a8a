"""Files and trees as tar streams, out of and into this host.

What comes from a guest is hostile. `tarfile.TarInfo` codes the headers, but `tarfile.TarFile` does
not read the stream: in Python versions that we support it can be made to loop, to allocate what a
header says, or to write outside of the target through links that its `data` filter let pass
(CVE-2025-8194, CVE-2024-6232, CVE-2025-4330). So `_members` reads the few forms that agents send,
with every size bounded, and `unpack` never follows a link: each directory on the way to a member
is opened by descriptor.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

from attest.guest.sparse_map import (
    Part,
    data_parts,
    encode_map,
    is_sparse,
    read_map,
    sparse_records,
)

__all__ = ["LeftOut", "TransferError", "pack", "unpack"]

_ROOT: Final = "root"
"""The name that stands for the target, in both directions."""

_PIECE: Final = 65_536
_BLOCK: Final = tarfile.BLOCKSIZE
_MAX_METADATA: Final = 16_384
"""Bytes in an extended header; two paths of the longest kind and the numbers fit in."""

_MAX_EXTENDED: Final = 3
"""Extended headers of one member: pax's, or GNU's for a long name and for a long link."""

_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
}
_LISTED: Final = 20
"""Members that are named when they were left out; more are counted."""

_EXTENDED: Final = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PERMISSIONS: Final = 0o777
_NO_LINK: Final = os.O_NOFOLLOW | os.O_CLOEXEC


class TransferError(Exception):
    """A tar stream is cut short, malformed, or tries to leave its target."""


# Out of this host


def pack(source: Path, write: Callable[[bytes], object]) -> list[str]:
    """Write a file or a tree as a tar stream.

    Owners are kept when root packs; other users' numbers mean nothing elsewhere, so their files
    become root's.

    Args:
        source: What to pack; when it is a link itself, what it leads to.
        write: Takes the stream.

    Returns:
        What was left out, and why.

    Raises:
        OSError: Something could not be read.
    """
    packer = _Packer(write)
    left_out = LeftOut()
    for path, name in _walk(source.resolve(strict=True), _ROOT):
        if why := packer.add(path, name):
            left_out.add(str(path), why)
    packer.finish()
    return left_out.lines()


class LeftOut:
    """What was left out of a copy and why: of many only the first, and a count."""

    def __init__(self) -> None:
        self._listed: list[str] = []
        self._more = 0

    def add(self, what: str, why: str) -> None:
        """Add one."""
        if len(self._listed) < _LISTED:
            self._listed.append(f"left out: {what} {why}")
        else:
            self._more += 1

    def add_unnamed(self, count: int) -> None:
        """Add some of which no more is known."""
        self._more += count

    def lines(self) -> list[str]:
        """A line for each."""
        return [*self._listed, *([f"left out: {self._more} more"] if self._more else [])]


def _walk(path: Path, name: str) -> Iterator[tuple[Path, str]]:
    yield path, name
    if path.is_dir() and not path.is_symlink():
        try:
            entries = sorted(os.listdir(path))
        except FileNotFoundError:  # it was there when it was looked at
            return
        for entry in entries:
            yield from _walk(path / entry, f"{name}/{entry}")


class _Packer:
    """Writes members to a stream, in large pieces."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._buffer = bytearray()
        self._linked: dict[tuple[int, int], str] = {}
        self._owners = os.geteuid() == 0

    def add(self, path: Path, name: str) -> str:
        """Write one member; or return why it is left out."""
        try:
            status = path.lstat()
            kind = _TYPES.get(stat.S_IFMT(status.st_mode))
            if kind is None:
                return f"is a {_kind(status.st_mode)}"
            if kind == tarfile.REGTYPE:
                with open(os.open(path, os.O_RDONLY | _NO_LINK), "rb", buffering=0) as file:
                    self._file(file, path, name)
                return ""
            member = self._member(name, kind, status)
            member.linkname = os.readlink(path) if kind == tarfile.SYMTYPE else ""
        except FileNotFoundError:
            if name == _ROOT:
                raise
            return "was removed while it was copied"
        self._header(member)
        return ""

    def finish(self) -> None:
        """End the stream."""
        self._put(bytes(2 * _BLOCK))
        self._write(bytes(self._buffer))

    def _header(self, member: tarfile.TarInfo) -> None:
        self._put(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _file(self, file: FileIO, path: Path, name: str) -> None:
        status = os.fstat(file.fileno())
        member = self._member(name, tarfile.REGTYPE, status)
        size = member.size
        parts = data_parts(file.fileno(), size)
        encoded = b""
        if parts is not None:
            encoded = encode_map(parts)
            member.pax_headers = {**member.pax_headers, **sparse_records(name, size)}
            member.size = len(encoded) + sum(length for _, length in parts)
        self._header(member)
        self._put(encoded)
        for offset, length in [(0, size)] if parts is None else parts:
            file.seek(offset)
            self._content(file, path, length)
        self._put(bytes(-member.size % _BLOCK))

    def _member(self, name: str, kind: bytes, status: os.stat_result) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.mode = stat.S_IMODE(status.st_mode)
        if self._owners:
            member.uid, member.gid = status.st_uid, status.st_gid
        member.mtime, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        if nanoseconds:
            member.pax_headers = {"mtime": f"{member.mtime}.{nanoseconds:09}"}
        if kind == tarfile.REGTYPE:
            first = self._linked.get((status.st_dev, status.st_ino))
            if first is not None:
                member.type, member.linkname = tarfile.LNKTYPE, first
                return member
            if status.st_nlink > 1:
                self._linked[status.st_dev, status.st_ino] = name
            member.size = status.st_size
        return member

    def _content(self, file: FileIO, path: Path, left: int) -> None:
        while left:
            data = file.read(min(left, _PIECE))
            if not data:
                raise OSError(f"{path} became shorter while it was copied")
            self._put(data)
            left -= len(data)

    def _put(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _PIECE:
            self._write(bytes(self._buffer))
            self._buffer.clear()


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "socket"
    return "FIFO" if stat.S_ISFIFO(mode) else "device"


# Into this host


def unpack(read: Callable[[], bytes], target: Path) -> list[str]:
    """Make of a hostile tar stream the file or tree ``target``, in place of what was there.

    Modes (without set-user-ID, set-group-ID and sticky bits) and times are kept; owners when root
    unpacks. It is unpacked beside the target and renamed, so the target is whole or untouched.

    Args:
        read: Returns the next bytes of the stream, of any number; none at its end.
        target: What the stream's root becomes; its parents are made.

    Returns:
        What was left out, and why.

    Raises:
        TransferError: The stream cannot be used.
        OSError: Something could not be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.parent / f".attest-{secrets.token_hex(8)}"
    parent = os.open(target.parent, os.O_DIRECTORY | os.O_CLOEXEC)
    unpacker = _Unpacker(parent, scratch.name)
    source = _Source(read)
    try:
        for member in _members(source):
            unpacker.add(member, source)
        source.drain()
        unpacker.finish()
        _replace(scratch, target)
    finally:
        os.close(parent)
        _remove(scratch)
    return unpacker.report()


def _replace(scratch: Path, target: Path) -> None:
    if not os.path.lexists(scratch):
        raise TransferError("the stream has no root")
    if not target.is_symlink() and target.is_dir():
        old = scratch.with_name(f"{scratch.name}.old")
        target.rename(old)
        scratch.rename(target)
        _remove(old)
    elif scratch.is_dir() and os.path.lexists(target):
        target.unlink()
        scratch.rename(target)
    else:
        scratch.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for directory, _, _ in os.walk(path):
            os.chmod(directory, 0o700)  # others than root cannot empty a read-only directory
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class _Source:
    """Bytes that arrive in pieces, read in the sizes that are needed."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._rest = memoryview(b"")

    def some(self, most: int) -> memoryview:
        """Read the next bytes: at least one, and at most ``most``."""
        if not self._rest:
            self._rest = memoryview(self._read())
        if not self._rest:
            raise TransferError("the stream is cut short")
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    def exactly(self, size: int) -> bytes:
        """Read ``size`` bytes into memory, so that must be few."""
        data = bytearray()
        while len(data) < size:
            data += self.some(size - len(data))
        return bytes(data)

    def drain(self) -> None:
        """Read and drop everything up to the end."""
        while self._read():
            pass


class _Member(msgspec.Struct, eq=False):
    """A member of a hostile stream, whose numbers are in range and whose name is not checked."""

    name: str
    type: bytes
    link: str
    size: int  # of its content in the stream, with the map of a sparse file
    file_size: int
    sparse: bool
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    left: int  # bytes of its content that are still in the stream


def _members(source: _Source) -> Iterator[_Member]:
    """The members of a stream; what the caller left of a member's content is skipped."""
    while True:
        header, extended = _header(source)
        if header is None:
            return
        member = _member(header, extended)
        yield member
        while member.left:
            member.left -= len(source.some(member.left))
        source.exactly(-member.size % _BLOCK)


def _header(source: _Source) -> tuple[tarfile.TarInfo | None, dict[str, str]]:
    """The next plain header, None at the archive's end, and what extended headers say of it."""
    extended: dict[str, str] = {}
    for _ in range(_MAX_EXTENDED + 1):
        block = source.exactly(_BLOCK)
        if not any(block):
            return None, extended
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise TransferError(f"bad header: {error}") from error
        if header.type not in _EXTENDED:
            return header, extended
        if not 0 < header.size <= _MAX_METADATA:
            raise TransferError(f"extended header of {header.size} bytes")
        text = source.exactly(header.size).decode(errors="surrogateescape")
        source.exactly(-header.size % _BLOCK)
        if header.type == tarfile.XHDTYPE:
            extended.update(_pax_records(text.encode(errors="surrogateescape")))
        else:
            long_name = header.type == tarfile.GNUTYPE_LONGNAME
            extended["path" if long_name else "linkpath"] = text.partition("\0")[0]
    raise TransferError(f"more than {_MAX_EXTENDED} extended headers for one member")


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(data):
        digits, _, _ = data[position : position + 8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[position + len(digits) + 1 : position + length]
        key, separator, value = record.partition(b"=")
        if not separator or not value.endswith(b"\n") or position + length > len(data):
            raise TransferError("bad extended header")
        yield key.decode(errors="surrogateescape"), value[:-1].decode(errors="surrogateescape")
        position += length


def _member(header: tarfile.TarInfo, extended: dict[str, str]) -> _Member:
    kind = tarfile.REGTYPE if header.type == tarfile.AREGTYPE else header.type
    size = _number(extended.get("size", str(header.size)), 2**63)
    if kind != tarfile.REGTYPE:
        size = 0
    try:
        sparse = is_sparse(extended)
    except ValueError as error:
        raise TransferError(str(error)) from None
    file_size = _number(extended["GNU.sparse.realsize"], 2**63) if sparse else size
    name = extended.get("GNU.sparse.name", "") or extended.get("path", header.name)
    return _Member(
        name=name.rstrip("/"),
        type=kind,
        link=extended.get("linkpath", header.linkname),
        size=size,
        file_size=file_size,
        sparse=sparse,
        mode=header.mode & _PERMISSIONS,
        uid=_number(extended.get("uid", str(header.uid)), 2**32 - 1),
        gid=_number(extended.get("gid", str(header.gid)), 2**32 - 1),
        mtime_ns=_nanoseconds(extended.get("mtime", str(int(header.mtime)))),
        left=size,
    )


def _number(text: str, limit: int) -> int:
    if re.fullmatch(r"[0-9]{1,20}", text) is None or int(text) >= limit:
        raise TransferError(f"number out of range: {text[:40]!r}")
    return int(text)


def _nanoseconds(text: str) -> int:
    match = re.fullmatch(r"(-?)([0-9]{1,10})(?:\.([0-9]{1,30}))?", text)
    if match is None:
        raise TransferError(f"time out of range: {text[:40]!r}")
    sign, seconds, fraction = match.groups(default="")
    total = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
    return -total if sign else total


class _Unpacker:
    """Makes members below a directory that is held open, without following any link.

    Args:
        parent: The directory, open.
        root: The name in it that the root member gets.
    """

    def __init__(self, parent: int, root: str) -> None:
        self._parent = parent
        self._root = root
        self._directories: list[tuple[list[str], _Member]] = []
        self._owners = os.geteuid() == 0
        self._left_out = LeftOut()

    def add(self, member: _Member, source: _Source) -> None:
        """Make one member, with its content from the stream."""
        parts = self._parts(member.name)
        with self._directory(parts[:-1]) as parent:
            match member.type:
                case tarfile.REGTYPE:
                    self._file(parent, parts[-1], member, source)
                case tarfile.DIRTYPE:
                    os.mkdir(parts[-1], 0o700, dir_fd=parent)
                    self._directories.append((parts, member))
                case tarfile.SYMTYPE:
                    self._symlink(parent, parts, member)
                case tarfile.LNKTYPE:
                    self._hard_link(parent, parts[-1], member)
                case _:
                    raise TransferError(f"member {member.name!r} of type {member.type!r}")

    def finish(self) -> None:
        """Give directories their modes and times, which filling them would have changed."""
        for parts, member in reversed(self._directories):
            with self._directory(parts) as directory:
                self._attributes(directory, member)

    def report(self) -> list[str]:
        """What was left out and why."""
        return self._left_out.lines()

    def _leave_out(self, member: _Member, why: str) -> None:
        self._left_out.add(repr(member.name.removeprefix(f"{_ROOT}/")), f"is {why}")

    def _parts(self, name: str) -> list[str]:
        parts = name.split("/")
        if parts[0] != _ROOT or any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise TransferError(f"member outside of the target: {name!r}")
        return [self._root, *parts[1:]]

    @contextlib.contextmanager
    def _directory(self, parts: list[str]) -> Iterator[int]:
        directory = os.dup(self._parent)
        try:
            for part in parts:
                inner = os.open(part, os.O_DIRECTORY | _NO_LINK, dir_fd=directory)
                os.close(directory)
                directory = inner
            yield directory
        finally:
            os.close(directory)

    def _file(self, parent: int, name: str, member: _Member, source: _Source) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb", buffering=0) as file:
            for offset, length in _parts_of(member, source):
                file.seek(offset)
                _receive(file, length, source)
                member.left -= length
            file.truncate(member.file_size)
            self._attributes(file.fileno(), member)

    def _attributes(self, file: int, member: _Member) -> None:
        if self._owners:
            os.fchown(file, member.uid, member.gid)
        os.fchmod(file, member.mode)
        os.utime(file, ns=(member.mtime_ns, member.mtime_ns))

    def _symlink(self, parent: int, parts: list[str], member: _Member) -> None:
        if parts == [self._root]:
            raise TransferError(f"it is a symbolic link; copy {member.link!r} instead")
        if not _stays_inside(member.link, len(parts) - 2):
            self._leave_out(member, f"a link to {member.link!r}, which may lead out of the tree")
            return
        os.symlink(member.link, parts[-1], dir_fd=parent)
        if self._owners:
            os.chown(parts[-1], member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(parts[-1], ns=times, dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, parent: int, name: str, member: _Member) -> None:
        first = self._parts(member.link)
        with self._directory(first[:-1]) as directory:
            try:
                os.link(
                    first[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False
                )
            except FileNotFoundError:
                self._leave_out(member, "a hard link to something that was left out")


def _parts_of(member: _Member, source: _Source) -> list[Part]:
    """Where the content of a file in the stream belongs; what says so is taken out of it."""
    if not member.sparse:
        return [(0, member.left)]

    def block() -> bytes:
        if member.left < _BLOCK:
            raise TransferError(f"member {member.name!r}: its map is longer than its content")
        member.left -= _BLOCK
        return source.exactly(_BLOCK)

    try:
        parts = read_map(block, member.file_size)
    except ValueError as error:
        raise TransferError(f"member {member.name!r}: {error}") from None
    if sum(length for _, length in parts) != member.left:
        raise TransferError(f"member {member.name!r}: its map does not fit its content")
    return parts


def _receive(file: FileIO, left: int, source: _Source) -> None:
    while left:
        piece = source.some(min(left, _PIECE))
        left -= len(piece)
        while piece:
            piece = piece[file.write(piece) :]


def _stays_inside(link: str, depth: int) -> bool:
    """A link ``depth`` directories below the root can only lead to something below the root.

    ``..`` after a name is refused altogether: that name may itself be a link, so where ``..`` leads
    cannot be told from the text.
    """
    parts = link.split("/")
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    return not link.startswith("/") and link != "" and up <= depth and ".." not in parts[up:]
