"""Bundles: images in one file, for another host, or for a later run on one whose cache is lost.

A bundle is a zstd stream: the index, a line of JSON, and after it the content of the files that the
index lists. It has what images share (`attest.image.content`) and no agent: who reads it puts in
its own. It is no tar archive, since nothing in it is to be a path: what is written has digests as
names, so there are no links, devices or names that could lead out of the store.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec
from msgspec import Meta

from attest.errors import HostError, UsageError
from attest.image.content import FILES, Content
from attest.image.model import Image
from attest.image.recipe import BUILDER_VERSION, Recipe
from attest.image.store import ImageRecord, ImageStore
from attest.image.store_files import hold, link, publish_held
from attest.support.claims import claimed
from attest.support.sparse_copy import write_sparse
from attest.support.text import last_lines

__all__ = ["Imported", "bundle_key", "read_bundle", "write_bundle"]

_FORMAT: Final = 1
"""Raise it when bundles are written in another way: others are refused."""

_COMPRESS: Final = ("-3", "-T0")
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_CHUNK: Final = 1 << 20
_LONGEST_INDEX: Final = 1 << 22
_CONTENT: Final = "content.json"
_EXPORT_ANEW: Final = "write it anew with `attest cache export`"
_REQUIRED: Final = {_CONTENT, "vmlinuz", "vmlinux", "initrd.base"}

_Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image: the key of its recipe, and what it is."""

    key: _Digest
    image: ImageRecord


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: _Digest
    size: Annotated[int, Meta(ge=0)]


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a bundle.

    Attributes:
        format: `_FORMAT` of who wrote it.
        builder: Its `BUILDER_VERSION`, which the recipes' keys have in them.
        arch: The guests' architecture.
        images: The images.
        contents: Their contents by digest: of each file its name and its SHA-256.
        files: The files that follow, in their order.
    """

    format: int
    builder: int
    arch: str
    images: tuple[_Entry, ...]
    contents: dict[_Digest, dict[str, _Digest]]
    files: tuple[_File, ...]


class _Version(msgspec.Struct, frozen=True):
    """What the first line of each bundle has, whatever its format."""

    format: int


class Imported(msgspec.Struct, frozen=True):
    """An image of a bundle that was read.

    Attributes:
        image: It, in the store.
        new: Its content was not there before.
    """

    image: Image
    new: bool


def bundle_key(recipes: Iterable[Recipe]) -> str:
    """A SHA-256 (hexadecimal) that is another when one of the recipes has to be built anew.

    So a bundle that was kept under it has all that they need.
    """
    keys = sorted({recipe.key() for recipe in recipes})
    return hashlib.sha256(json.dumps([_FORMAT, keys]).encode()).hexdigest()


def write_bundle(file: Path, recipes: Iterable[Recipe], store: ImageStore) -> list[Image]:
    """Write the images of recipes into one file.

    It is there when it is complete, and as it was before when that fails. Nobody removes the images
    meanwhile.

    Args:
        file: The bundle; one that is there is replaced.
        recipes: Of which images; those that are not there are built.
        store: Where the images are.

    Returns:
        The images.

    Raises:
        UsageError: What is there is another kind of file, which is left alone.
        HostError: There is no zstd, or the file cannot be written.
        RecipeError, ImageBuildError: As with `ImageStore.build`.
    """
    if _is_another_kind(file):
        raise UsageError(
            f"{file}: is there, and is none of `attest cache export`: it is not replaced",
            hint="the file comes first: attest cache export images.zst test.toml",
        )
    with ExitStack() as held:
        images: dict[str, Image] = {}
        entries = []
        for recipe in recipes:
            image = _build_held(recipe, store, held)
            if image.digest not in images:
                images[image.digest] = image
                entries.append(_Entry(recipe.key(), _record(image)))
        index, sources = _index(
            entries, {image.content: store.content_path(image) for image in images.values()}
        )
        try:
            with claimed(file.with_name(f".{file.name}.writing")) as work:
                _pack(work / "bundle", index, sources)
                (work / "bundle").rename(file)
        except OSError as error:
            raise HostError(f"{file}: cannot be written: {error.strerror}") from None
    return list(images.values())


def read_bundle(file: Path, store: ImageStore) -> list[Imported]:
    """Put the images of a bundle into a store, each with this attest's agent.

    They come in when all has been read, and is what its digests say; nothing is read when they are
    all there. Others may build and read the same meanwhile.

    Args:
        file: The bundle.
        store: Where the images go.

    Raises:
        UsageError: It is no bundle, is damaged, or is of no use to this host and attest.
        HostError: There is no zstd, or no room for the images; or the store cannot be written.
    """
    with ExitStack() as held, _zstd("-d", "-c", "--", str(file), stdout=subprocess.PIPE) as zstd:
        assert zstd.stdout is not None
        line = zstd.stdout.readline(_LONGEST_INDEX)
        if not line.endswith(b"\n"):
            raise _unusable(file, zstd, "is none of `attest cache export`, or damaged")
        index = _parse(file, line)
        try:
            new = _take_in(
                file, index, store, f"import-{hashlib.sha256(line).hexdigest()[:32]}", zstd, held
            )
        except OSError as error:
            raise HostError(f"{store.directory}: cannot be written: {error.strerror}") from None
        return [
            Imported(store.assemble(entry.image), entry.image.content in new)
            for entry in index.images
        ]


# Writing


def _is_another_kind(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as opened:  # what is wrong is told by who writes it
        return opened.read(len(_MAGIC)) != _MAGIC
    return False


def _build_held(recipe: Recipe, store: ImageStore, held: ExitStack) -> Image:
    while True:
        image = store.build(recipe)
        if hold(store.content_path(image), held):
            return image


def _record(image: Image) -> ImageRecord:
    return ImageRecord(
        name=image.name, arch=image.arch, init=image.init, cmdline=image.cmdline,
        content=image.content, kernel_version=image.kernel_version, recipe=image.recipe,
        kvm=image.kvm,
    )  # fmt: skip


def _index(
    entries: Iterable[_Entry], contents: Mapping[str, Path]
) -> tuple[_Index, Iterable[Path]]:
    """The index of contents in these directories, and the files in its order."""
    files: dict[_File, Path] = {}  # contents share their kernel
    named: dict[str, dict[str, str]] = {}
    for digest, directory in contents.items():
        named[digest] = {}
        for name in (_CONTENT, *FILES):
            path = directory / name
            if path.exists():
                with path.open("rb") as opened:
                    sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
                files[_File(sha256, path.stat().st_size)] = path
                named[digest][name] = sha256
    index = _Index(
        _FORMAT, BUILDER_VERSION, platform.machine(), tuple(entries), named, tuple(files)
    )
    return index, files.values()


def _pack(target: Path, index: _Index, files: Iterable[Path]) -> None:
    with _zstd(*_COMPRESS, "-o", str(target), stdin=subprocess.PIPE) as zstd:
        assert zstd.stdin is not None
        with suppress(BrokenPipeError), zstd.stdin as stream:  # it says why it has ended
            stream.write(msgspec.json.encode(index) + b"\n")
            for file in files:
                with file.open("rb") as opened:
                    shutil.copyfileobj(opened, stream, _CHUNK)
        if complaint := _end(zstd):
            raise HostError(f"the images cannot be written: {complaint}")


# Reading


def _take_in(
    file: Path,
    index: _Index,
    store: ImageStore,
    claim: str,
    zstd: subprocess.Popen[bytes],
    held: ExitStack,
) -> set[str]:
    """Put contents and recipes' keys into the store, and hold them; which contents were not there.

    Nobody else with the same claim is at it meanwhile.
    """
    places = {digest: store.directory / "contents" / digest for digest in index.contents}
    with claimed(store.directory / "building" / claim) as work:
        new = {digest for digest, place in places.items() if not hold(place, held)}
        if new:
            _unpack(file, index, new, zstd, work)
        for digest in new:
            publish_held(work / digest, places[digest], held)
        for entry in index.images:
            link(store.directory / "inputs" / entry.key, places[entry.image.content], work)
    return new


def _parse(file: Path, line: bytes) -> _Index:
    """The index, of which nothing is believed but what it says of the files' content."""
    try:
        version = msgspec.json.decode(line, type=_Version)
        if version.format != _FORMAT:
            raise UsageError(
                f"{file}: written by another version of attest: format {version.format}, "
                f"this one reads {_FORMAT}",
                hint=_EXPORT_ANEW,
            )
        index = msgspec.json.decode(line, type=_Index)
    except msgspec.DecodeError as error:
        raise UsageError(f"{file}: is none of `attest cache export`: {error}") from None
    if index.builder != BUILDER_VERSION:
        raise UsageError(
            f"{file}: its images are of attest's builder {index.builder}, and this is "
            f"{BUILDER_VERSION}, which would not use them",
            hint=_EXPORT_ANEW,
        )
    if index.arch != platform.machine():
        raise UsageError(f"{file}: its images are for {index.arch}, this is {platform.machine()}")
    for image in (entry.image for entry in index.images):
        if image.arch != index.arch or not image.name.isprintable():
            raise UsageError(f"{file}: {image.name!r} for {image.arch!r} is no image of this host")
        if image.content not in index.contents:
            raise UsageError(f"{file}: there is no content {image.content!r} for {image.name}")
    listed = {each.sha256 for each in index.files}
    for digest, names in index.contents.items():
        if not _REQUIRED <= set(names) <= {_CONTENT, *FILES} or not listed.issuperset(
            names.values()
        ):
            raise UsageError(f"{file}: content {digest[:12]} has other files than an image has")
    return index


def _unpack(
    file: Path, index: _Index, new: Iterable[str], zstd: subprocess.Popen[bytes], work: Path
) -> None:
    """Make the directories of the new contents in ``work``."""
    assert zstd.stdout is not None
    size = sum(each.size for each in index.files)
    if size > (free := shutil.disk_usage(work).free):
        raise HostError(
            f"{file}: its images are {size >> 20} MiB, and {free >> 20} MiB are free in {work}",
            hint="`attest image gc` removes images not used for long",
        )
    for each in index.files:
        if not _extract(zstd.stdout, each, work / each.sha256):
            raise _unusable(file, zstd, "is damaged")
    if zstd.stdout.read(1) or zstd.wait():
        raise _unusable(file, zstd, "is damaged")
    for digest in new:
        (work / digest).mkdir()
        for name, sha256 in index.contents[digest].items():
            (work / digest / name).hardlink_to(work / sha256)
        try:
            content = msgspec.json.decode((work / digest / _CONTENT).read_bytes(), type=Content)
        except msgspec.DecodeError as error:
            raise UsageError(f"{file}: {_CONTENT} of {digest[:12]}: {error}") from None
        if content.digest != digest:
            raise UsageError(f"{file}: content {digest[:12]} says that it is another")


def _extract(stream: IO[bytes], expected: _File, target: Path) -> bool:
    """Write what the stream has next, sparsely; whether it is that file."""
    digest = hashlib.sha256()
    left = expected.size
    with target.open("wb", buffering=_CHUNK) as out:
        while left and (data := stream.read(min(left, _CHUNK))):
            digest.update(data)
            write_sparse(out, data)
            left -= len(data)
        out.truncate(expected.size)
    return digest.hexdigest() == expected.sha256


def _unusable(file: Path, zstd: subprocess.Popen[bytes], what: str) -> UsageError:
    assert zstd.stdout is not None
    if zstd.stdout.read(1):  # it has not ended, so it has nothing to complain of
        zstd.kill()
    complaint = _end(zstd)
    return UsageError(f"{file} {what}{f': {complaint}' if complaint else ''}", hint=_EXPORT_ANEW)


# zstd


@contextmanager
def _zstd(
    *arguments: str, stdin: int | None = None, stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """zstd, which Python has only from 3.14 on; killed at the end if it has not ended."""
    try:
        process = subprocess.Popen(
            ["zstd", "--quiet", *arguments], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        raise HostError(
            "`zstd` is missing, by which images are written into one file",
            hint="apt-get install zstd",
        ) from None
    with process:
        try:
            yield process
        finally:
            process.kill()


def _end(zstd: subprocess.Popen[bytes]) -> str:
    """What zstd complains of when it ends; empty when it does not."""
    assert zstd.stderr is not None
    said = last_lines(zstd.stderr.read().decode(errors="replace"))
    return "; ".join(said) or f"zstd ended with {zstd.returncode}" if zstd.wait() > 0 else ""
