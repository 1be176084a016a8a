"""The image store: every image that was built, under its digest.

    images/DIGEST/    image.json, initrd, and hard links to the content's kernel and root
    contents/DIGEST/  what images share that differ in agent and parameters only
    layers/DIGEST/    what a step of a recipe has made (`attest.image.layer`)
    inputs/KEY        a link to the content that a recipe, or the layer that a step, has led to
    building/NAME/    a build under way, locked by its builder, with which it goes
    lists/NAME/       package lists, for some hours
    packages/         fetched packages, for the next build
    logs/             of builds that failed

All but `building` only ever holds what is complete: it is renamed into place. Stores of former
versions have what is now a content in `layers`; their images go on being used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from attest.errors import HostError, UsageError, host_error
from attest.image.content import FILES, Content
from attest.image.layer import Layer
from attest.image.model import Image
from attest.image.store_files import discard, entries, publish
from attest.support.claims import claimed, sweep
from attest.support.paths import cache_dir

if TYPE_CHECKING:
    from attest.image.recipe import Recipe

__all__ = ["HistoryEntry", "ImageRecord", "ImageStore"]

_ASSEMBLY_VERSION: Final = 2
"""Goes into every image's digest: raise it when images are put together in another way."""

_SHORTEST_PREFIX: Final = 6
_DAY: Final = 24 * 3600.0


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an image's `image.json`; its fields are those of `attest.image.model.Image`.

    Attributes:
        built: 0 before the image is there.
    """

    name: str
    arch: str
    init: str
    cmdline: tuple[str, ...]
    content: str = msgspec.field(name="layer")  # as former versions wrote it
    kernel_version: str
    recipe: str
    built: float = 0.0
    kvm: tuple[str, ...] = ()


class HistoryEntry(msgspec.Struct, frozen=True):
    """A layer of an image.

    Attributes:
        step: What has made it, in one line.
        layer: It.
    """

    step: str
    layer: Layer


def _silent(_line: str) -> None:
    pass


class ImageStore:
    """The store in one directory; several processes may use it at once.

    Args:
        directory: Where; by default ``images`` in attest's cache directory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or cache_dir() / "images"

    def build(
        self, recipe: Recipe, *, progress: Callable[[str], None] = _silent, refresh: bool = False
    ) -> Image:
        """The recipe's image; built when it is not there.

        Args:
            recipe: What to build.
            progress: Called with a line for each stage of a build.
            refresh: Build all its layers anew, with the packages that its suite has now.

        Raises:
            RecipeError: The recipe asks for what does not exist.
            HostError: The host lacks a program or setting, or the agent's binary; or the store
                cannot be written.
            ImageBuildError: A step of the build failed.
        """
        try:
            content = None if refresh else self._content_of(recipe.key())
            if content is None:
                content = self._build_content(recipe, progress, refresh)
            return self.assemble(_record(recipe, content), progress)
        except OSError as error:
            if host_error(error) is None:  # of the network, or attest's own mistake
                raise
            place = error.filename or self.directory
            raise HostError(
                f"cannot make the image {recipe.name}: {place}: {error.strerror or error}",
                hint="set XDG_CACHE_HOME to a directory that can be written and has room",
            ) from error

    def built(self, recipe: Recipe) -> Image | None:
        """The image that `build` would return at once, if there is one."""
        content = self._content_of(recipe.key())
        if content is None:
            return None
        digest = _image_digest(_record(recipe, content), _agent(recipe.arch))
        image = _read(self.directory / "images" / digest)
        return _used(image) if image else None

    def assemble(self, record: ImageRecord, progress: Callable[[str], None] = _silent) -> Image:
        """Put an image together of its content and the agent: a matter of milliseconds.

        Args:
            record: Which, of a content that is in the store.
            progress: Called with a line if the image was not there.

        Raises:
            HostError: There is no agent's binary for it.
        """
        agent = _agent(record.arch)
        digest = _image_digest(record, agent)
        path = self.directory / "images" / digest
        if image := _read(path):
            return _used(image)
        source = self.directory / "contents" / record.content
        os.utime(source / "content.json")
        with claimed(self.directory / "building" / digest) as work:
            out = work / "out"
            out.mkdir()
            _fill(out, source, agent)
            (out / "image.json").write_bytes(
                msgspec.json.encode(replace(record, built=time.time()))
            )
            publish(out, path)
        image = _read(path)
        assert image is not None
        progress(f"built {image.name} {image.digest[:12]}")
        return image

    def give(self, recipe: Recipe, other: ImageStore) -> None:
        """Let another store have what a recipe's image is made of, so that it builds nothing.

        Args:
            recipe: What to give; built when it is not there.
            other: Who gets it, where nobody else is at work.

        Raises:
            RecipeError, HostError, ImageBuildError: As with `build`.
        """
        content = self.build(recipe).content
        shutil.copytree(
            self.directory / "contents" / content, other.directory / "contents" / content
        )
        (other.directory / "inputs").mkdir(exist_ok=True)
        (other.directory / "inputs" / recipe.key()).symlink_to(f"../contents/{content}")

    def find(self, name_or_digest: str) -> Image:
        """The image of a name (the one built last), or of a digest or the unique beginning of one.

        The path of a recipe will do, too: its image is the one that `build` would return at once.

        Raises:
            RecipeError: There is no such recipe, or it cannot be used.
            UsageError: There is none, or the beginning fits several.
        """
        from attest.image.recipe import is_recipe, load_recipe

        if is_recipe(name_or_digest):
            if image := self.built(load_recipe(name_or_digest)):
                return image
            raise UsageError(
                f"no image of {name_or_digest}, as that is now, in {self.directory}",
                hint=f"build it with `attest image build {name_or_digest}`",
            )
        images = self.images()
        named = [image for image in images if image.name == name_or_digest]
        if named:
            return _used(max(named, key=lambda image: image.built))
        fitting = [image for image in images if image.digest.startswith(name_or_digest)]
        if len(fitting) == 1 and len(name_or_digest) >= _SHORTEST_PREFIX:
            return _used(fitting[0])
        if fitting:
            raise UsageError(
                f"`{name_or_digest}` is too short a beginning of a digest; it fits {len(fitting)}",
                hint=f"give at least {_SHORTEST_PREFIX} digits, and enough to tell them apart",
            )
        names = ", ".join(sorted({image.name for image in images})) or "none"
        raise UsageError(
            f"no image `{name_or_digest}` in {self.directory}; there are: {names}",
            hint=f"build it with `attest image build {name_or_digest}`",
        )

    def images(self) -> list[Image]:
        """All images in the store, in the order of their last use, the latest first."""
        found = [image for path in entries(self.directory / "images") if (image := _read(path))]
        return sorted(found, key=lambda image: image.last_used, reverse=True)

    def packages(self, image: Image) -> list[str]:
        """The Debian packages installed in an image, ``name version``; none in ``tiny``."""
        content = _read_content(self.content_path(image))
        return content.packages if content else []

    def history(self, image: Image) -> list[HistoryEntry]:
        """An image's layers, from the bottom up; those that are still there."""
        content = _read_content(self.content_path(image))
        found = []
        for made in content.history if content else ():
            with suppress(FileNotFoundError):
                path = self.directory / "layers" / made.layer / "layer.json"
                layer = msgspec.json.decode(path.read_bytes(), type=Layer)
                found.append(HistoryEntry(made.step, layer))
        return found

    def remove(self, image: Image) -> None:
        """Remove an image, and what no other image has a part in.

        Machines that run keep what they have opened.
        """
        building = self.directory / "building"
        content = _read_content(self.content_path(image))
        discard(image.path, building)
        others = self.images()
        if all(other.content != image.content for other in others):
            discard(self.content_path(image), building)
        kept = self._layers_in_use()
        for made in content.history if content else ():
            if made.layer not in kept:
                discard(self.directory / "layers" / made.layer, building)

    def gc(self, *, max_age: float = 30 * _DAY) -> list[Image]:
        """Remove what nobody needs: what was not used for long, and what dead builds left.

        Args:
            max_age: Seconds since the last use.

        Returns:
            The removed images.
        """
        self._sweep()
        oldest = time.time() - max_age
        building = self.directory / "building"
        removed = [image for image in self.images() if image.last_used < oldest]
        for image in removed:
            discard(image.path, building)
        used = {image.content for image in self.images()}
        for path in entries(self.directory / "contents"):
            if path.name not in used and (path / "content.json").stat().st_mtime < oldest:
                discard(path, building)
        used |= self._layers_in_use()
        for path in entries(self.directory / "layers"):
            if path.name not in used and (path / "layer.json").stat().st_mtime < oldest:
                discard(path, building)
        for path in entries(self.directory / "lists"):
            if path.stat().st_mtime < max(oldest, time.time() - _DAY):
                discard(path, building)
        for path in (*entries(self.directory / "packages"), *entries(self.directory / "logs")):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
        for link in entries(self.directory / "inputs"):
            if not link.exists():
                link.unlink(missing_ok=True)
        return removed

    def content_path(self, image: Image) -> Path:
        """The directory of an image's content."""
        path = self.directory / "contents" / image.content
        return path if path.is_dir() else self.directory / "layers" / image.content

    def _content_of(self, key: str) -> Content | None:
        return _read_content(self.directory / "inputs" / key)

    def _layers_in_use(self) -> set[str]:
        """The layers of all contents."""
        contents = map(_read_content, entries(self.directory / "contents"))
        return {made.layer for content in contents if content for made in content.history}

    def _build_content(
        self, recipe: Recipe, progress: Callable[[str], None], refresh: bool
    ) -> Content:
        from attest.image.build import Build
        from attest.image.build_space import BuildSpace

        self._sweep()
        log = self.directory / "logs" / f"{recipe.name}-{recipe.key()[:12]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        content = Build(recipe, self.directory, BuildSpace(log, progress), refresh).content()
        log.unlink(missing_ok=True)
        return content

    def _sweep(self) -> None:
        """Remove what a host that went down has left: what nobody holds a lock on."""
        for path in entries(self.directory / "building"):
            sweep(path)


def _record(recipe: Recipe, content: Content) -> ImageRecord:
    return ImageRecord(
        name=recipe.name, arch=recipe.arch, init=recipe.init, cmdline=recipe.cmdline,
        content=content.digest, kernel_version=content.kernel_version, recipe=str(recipe.source),
        kvm=content.kvm,
    )  # fmt: skip


def _agent(arch: str) -> bytes:
    from attest.guest.agent.binary import agent_binary

    return agent_binary(arch).read_bytes()


def _image_digest(record: ImageRecord, agent: bytes) -> str:
    parts = [
        _ASSEMBLY_VERSION, record.name, record.arch, record.init, record.cmdline,
        record.content, hashlib.sha256(agent).hexdigest(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _fill(out: Path, content: Path, agent: bytes) -> None:
    from attest.image.initrd import CpioWriter

    for name in FILES:
        if name != "initrd.base" and (content / name).exists():
            (out / name).hardlink_to(content / name)
    with (out / "initrd").open("wb") as initrd, (content / "initrd.base").open("rb") as base:
        CpioWriter(initrd).file("init", agent, 0o755)
        shutil.copyfileobj(base, initrd)


def _read(path: Path) -> Image | None:
    try:
        record = msgspec.json.decode((path / "image.json").read_bytes(), type=ImageRecord)
    except FileNotFoundError:
        return None
    root = path / "root.ext4"
    return Image(
        digest=path.name,
        path=path,
        kernel=path / "vmlinuz",
        vmlinux=path / "vmlinux",
        initrd=path / "initrd",
        root=root if root.exists() else None,
        **msgspec.structs.asdict(record),
    )


def _used(image: Image) -> Image:
    with suppress(OSError):  # a store that this user may only read
        os.utime(image.path / "image.json")
    return image


def _read_content(path: Path) -> Content | None:
    for name in ("content.json", "layer.json"):  # the latter in stores of former versions
        with suppress(FileNotFoundError, msgspec.ValidationError):
            return msgspec.json.decode((path / name).read_bytes(), type=Content)
    return None
