"""The image store: every image that was built, under its digest.

    images/DIGEST/   image.json, initrd, and hard links to the layer's kernel and root
    layers/DIGEST/   what images share (`attest.image.layer`)
    inputs/KEY       a link to the layer that a recipe's key has led to
    building/NAME/   a build under way, locked by its builder, with which it goes
    packages/        fetched packages, for the next build
    logs/            of builds that failed

All but `building` only ever holds what is complete: it is renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from attest.errors import UsageError
from attest.image.layer import CONTENT, Layer
from attest.image.model import Image
from attest.support.claims import claimed, sweep
from attest.support.paths import cache_dir

if TYPE_CHECKING:
    from attest.image.recipe import Recipe

__all__ = ["ImageStore"]

_ASSEMBLY_VERSION: Final = 2
"""Goes into every image's digest: raise it when images are put together in another way."""

_SHORTEST_PREFIX: Final = 6
_DAY: Final = 24 * 3600.0


class _Record(msgspec.Struct, frozen=True):
    """The content of an image's `image.json`."""

    name: str
    arch: str
    init: str
    cmdline: tuple[str, ...]
    layer: str
    kernel_version: str
    recipe: str
    built: float
    kvm: tuple[str, ...] = ()


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
            refresh: Build it anew, with the packages that its suite has now.

        Raises:
            RecipeError: The recipe asks for what does not exist.
            HostError: The host lacks a program or setting, or the agent's binary.
            ImageBuildError: A step of the build failed.
        """
        layer = None if refresh else self._layer_of(recipe.key())
        if layer is None:
            layer = self._build_layer(recipe, progress, refresh)
        return self._assemble(recipe, layer, progress)

    def give(self, recipe: Recipe, other: ImageStore) -> None:
        """Let another store have what a recipe's image is made of, so that it builds nothing.

        Args:
            recipe: What to give; built when it is not there.
            other: Who gets it, where nobody else is at work.

        Raises:
            RecipeError, HostError, ImageBuildError: As with `build`.
        """
        layer = self.build(recipe).layer
        shutil.copytree(self.directory / "layers" / layer, other.directory / "layers" / layer)
        (other.directory / "inputs").mkdir(exist_ok=True)
        (other.directory / "inputs" / recipe.key()).symlink_to(f"../layers/{layer}")

    def find(self, name_or_digest: str) -> Image:
        """The image of a name (the one built last), or of a digest or the unique beginning of one.

        The path of a recipe will do, too: its image is the one that `build` would return at once.

        Raises:
            RecipeError: There is no such recipe, or it cannot be used.
            UsageError: There is none, or the beginning fits several.
        """
        from attest.image.recipe import is_recipe, load_recipe

        if is_recipe(name_or_digest):
            if image := self._built(load_recipe(name_or_digest)):
                return _used(image)
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
        found = [image for path in _entries(self.directory / "images") if (image := _read(path))]
        return sorted(found, key=lambda image: image.last_used, reverse=True)

    def packages(self, image: Image) -> list[str]:
        """The Debian packages installed in an image, ``name version``; none in ``tiny``."""
        layer = self._layer(image.layer)
        return layer.packages if layer else []

    def remove(self, image: Image) -> None:
        """Remove an image, and its layer when no other image shares it.

        Machines that run keep what they have opened.
        """
        _discard(image.path, self.directory / "building")
        if all(other.layer != image.layer for other in self.images()):
            _discard(self.directory / "layers" / image.layer, self.directory / "building")

    def gc(self, *, max_age: float = 30 * _DAY) -> list[Image]:
        """Remove what nobody needs: what was not used for long, and what dead builds left.

        Args:
            max_age: Seconds since the last use.

        Returns:
            The removed images.
        """
        self._sweep()
        oldest = time.time() - max_age
        removed = [image for image in self.images() if image.last_used < oldest]
        for image in removed:
            _discard(image.path, self.directory / "building")
        shared = {image.layer for image in self.images()}
        for path in _entries(self.directory / "layers"):
            if path.name not in shared and (path / "layer.json").stat().st_mtime < oldest:
                _discard(path, self.directory / "building")
        for path in (*_entries(self.directory / "packages"), *_entries(self.directory / "logs")):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
        for link in _entries(self.directory / "inputs"):
            if not link.exists():
                link.unlink(missing_ok=True)
        return removed

    def _layer(self, digest: str) -> Layer | None:
        return self._read_layer(self.directory / "layers" / digest)

    def _layer_of(self, key: str) -> Layer | None:
        return self._read_layer(self.directory / "inputs" / key)

    def _read_layer(self, path: Path) -> Layer | None:
        try:
            return msgspec.json.decode((path / "layer.json").read_bytes(), type=Layer)
        except FileNotFoundError:
            return None

    def _build_layer(self, recipe: Recipe, progress: Callable[[str], None], refresh: bool) -> Layer:
        from attest.image.build_space import BuildSpace
        from attest.image.layer_build import build_layer

        def waiting() -> None:
            progress(f"waiting for another process that builds {recipe.name}")

        key = recipe.key()
        with claimed(self.directory / "building" / key, waiting) as work:
            if not refresh and (layer := self._layer_of(key)):
                return layer  # another process has built it while this one waited
            self._sweep()
            packages, logs = self.directory / "packages", self.directory / "logs"
            for directory in (packages, logs):
                directory.mkdir(parents=True, exist_ok=True)
            log = logs / f"{recipe.name}-{key[:12]}.log"
            log.unlink(missing_ok=True)
            layer = build_layer(recipe, work, packages, BuildSpace(log, progress))
            _publish(work / "out", self.directory / "layers" / layer.digest)
            _link(self.directory / "inputs" / key, f"../layers/{layer.digest}", work)
            log.unlink(missing_ok=True)
            return layer

    def _built(self, recipe: Recipe) -> Image | None:
        layer = self._layer_of(recipe.key())
        if layer is None:
            return None
        return _read(self.directory / "images" / _image_digest(recipe, layer, _agent(recipe)))

    def _assemble(self, recipe: Recipe, layer: Layer, progress: Callable[[str], None]) -> Image:
        """The layer and the agent, put together: a matter of milliseconds."""
        agent = _agent(recipe)
        digest = _image_digest(recipe, layer, agent)
        path = self.directory / "images" / digest
        if image := _read(path):
            return _used(image)
        source = self.directory / "layers" / layer.digest
        os.utime(source / "layer.json")
        with claimed(self.directory / "building" / digest) as work:
            out = work / "out"
            out.mkdir()
            _fill(out, source, agent)
            record = _Record(
                recipe.name, recipe.arch, recipe.init, recipe.cmdline, layer.digest,
                layer.kernel_version, str(recipe.source), time.time(), layer.kvm,
            )  # fmt: skip
            (out / "image.json").write_bytes(msgspec.json.encode(record))
            _publish(out, path)
        image = _read(path)
        assert image is not None
        progress(f"built {image.name} {image.digest[:12]}")
        return image

    def _sweep(self) -> None:
        """Remove what a host that went down has left: what nobody holds a lock on."""
        for path in _entries(self.directory / "building"):
            sweep(path)


def _agent(recipe: Recipe) -> bytes:
    from attest.guest.agent.binary import agent_binary

    return agent_binary(recipe.arch).read_bytes()


def _image_digest(recipe: Recipe, layer: Layer, agent: bytes) -> str:
    parts = [
        _ASSEMBLY_VERSION, recipe.name, recipe.arch, recipe.init, recipe.cmdline,
        layer.digest, hashlib.sha256(agent).hexdigest(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _fill(out: Path, layer: Path, agent: bytes) -> None:
    from attest.image.initrd import CpioWriter

    for name in CONTENT:
        if name != "initrd.base" and (layer / name).exists():
            (out / name).hardlink_to(layer / name)
    with (out / "initrd").open("wb") as initrd, (layer / "initrd.base").open("rb") as base:
        CpioWriter(initrd).file("init", agent, 0o755)
        shutil.copyfileobj(base, initrd)


def _read(path: Path) -> Image | None:
    try:
        record = msgspec.json.decode((path / "image.json").read_bytes(), type=_Record)
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


def _entries(directory: Path) -> Iterator[Path]:
    return iter(sorted(directory.iterdir()) if directory.is_dir() else ())


def _publish(built: Path, path: Path) -> None:
    """Rename a complete directory into place, its content on disk first."""
    for file in built.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        built.rename(path)
    except OSError:
        if not path.is_dir():  # equal content, built at the same time, is as good
            raise


def _link(path: Path, target: str, work: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (work / "link").symlink_to(target)
    (work / "link").rename(path)


def _discard(path: Path, building: Path) -> None:
    """Take a directory out of the store at one moment, then remove it."""
    with claimed(building / f"discard-{path.name}") as work, suppress(FileNotFoundError):
        path.rename(work / path.name)
