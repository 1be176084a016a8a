"""How an image is built: a recipe's steps, each a layer, and of these the content of the image.

What can be known early is: before a package is fetched, whether there are all that the recipe
wants; before anything else is built, whether the kernel has the modules.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from attest.image.build_space import BuildSpace
from attest.image.content import Content, Made
from attest.image.content_build import content_digest, write_content
from attest.image.kernel import KernelModules
from attest.image.layer import Layer, visible
from attest.image.package_lists import PackageLists, package_lists
from attest.image.recipe import BUILDER_VERSION, Recipe
from attest.image.steps import Source, Step, steps_of
from attest.image.store_files import hold, link, publish, publish_held
from attest.image.tree import Workplace, overlays_work
from attest.support.claims import claimed
from attest.support.user_namespace import require_tools

__all__ = ["Build"]


class Build:
    """One build of a recipe in a store.

    Args:
        recipe: What to build.
        store: The store's directory.
        space: Where the steps run.
        anew: Make all layers anew, of the packages that the suite has now.
    """

    def __init__(self, recipe: Recipe, store: Path, space: BuildSpace, anew: bool) -> None:
        self._recipe = recipe
        self._store = store
        self._space = space
        self._anew = anew
        self._begun = time.time()
        self._lists: PackageLists | None = None
        self._overlay = overlays_work(store / "building")
        (store / "packages").mkdir(parents=True, exist_ok=True)

    def content(self) -> Content:
        """Build what is not there.

        Returns:
            The content, which is in the store then.

        Raises:
            HostError: A program is missing.
            RecipeError: The recipe asks for packages or modules that there are not.
            ImageBuildError: A step failed.
        """
        require_tools("mmdebstrap", "apt-get", "dpkg-deb", "depmod", "bash", "tar")
        if self._recipe.base == "debian":
            require_tools("mkfs.ext4")
        steps = steps_of(self._recipe)
        stack: list[Layer] = []
        with ExitStack() as held:
            for number, step in enumerate(steps, 1):
                below = [] if step.alone else stack
                stack.append(self._layer(step, below, f"{number}/{len(steps)} ", held))
                if len(stack) == 1:
                    self._check_modules(stack[0])
            made = [Made(step.text, layer.digest) for step, layer in zip(steps, stack, strict=True)]
            return self._write(stack, made)

    def _check_modules(self, kernel: Layer) -> None:
        (directory,) = self._path(kernel).glob("tree/usr/lib/modules/*")
        KernelModules(directory).check(self._recipe.modules, f"{self._recipe.source}: modules")

    def _layer(self, step: Step, below: Sequence[Layer], where: str, held: ExitStack) -> Layer:
        key = self._key(step, below)
        if not self._anew and (layer := self._held(key, held)):
            return layer
        if step.needs_packages:
            self._package_lists()
        with claimed(self._store / "building" / key, lambda: self._space.progress(
            f"{where}waiting for another build that makes: {step.text}"
        )) as work:  # fmt: skip
            if layer := self._held(key, held, newer_than=self._begun if self._anew else 0):
                return layer  # another process has made it while this one waited
            return self._make(step, below, where, work, key, held)

    def _make(
        self, step: Step, below: Sequence[Layer], where: str, work: Path, key: str, held: ExitStack
    ) -> Layer:
        self._space.progress(f"{where}{step.text}")
        begun = time.monotonic()
        trees = [self._path(layer) / "tree" for layer in visible(below)]
        place = Workplace(work, trees, self._overlay, self._space)
        epoch = step.make(place, Source(self._package_lists, self._store / "packages"))
        epoch = max([epoch, *(layer.epoch for layer in below)])
        digest, size = place.finish(epoch)
        layer = Layer(
            digest, not self._overlay and not step.alone, epoch, size, time.time(),
            time.monotonic() - begun,
        )  # fmt: skip
        (place.out / "layer.json").write_bytes(msgspec.json.encode(layer))
        path = self._store / "layers" / digest
        publish_held(place.out, path, held)
        link(self._store / "inputs" / key, path, work)
        return _read(path)

    def _key(self, step: Step, below: Sequence[Layer]) -> str:
        inputs = [BUILDER_VERSION, self._overlay, [layer.digest for layer in below], step.inputs]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()

    def _held(self, key: str, held: ExitStack, newer_than: float = 0) -> Layer | None:
        """A layer that is there, which nobody removes until the build has ended."""
        path = (self._store / "inputs" / key).resolve()
        if not hold(path, held):
            return None
        layer = _read(path)
        if layer.built < newer_than:
            return None
        with suppress(OSError):  # a store that this user may only read
            os.utime(path / "layer.json")
        return layer

    def _path(self, layer: Layer) -> Path:
        return self._store / "layers" / layer.digest

    def _package_lists(self) -> PackageLists:
        """The lists, after the recipe was held to them."""
        if self._lists is None:
            since = self._begun if self._anew else None
            lists = package_lists(self._store, self._recipe, self._space, since)
            with claimed(self._store / "building" / f"check-{os.urandom(8).hex()}") as work:
                lists.check(self._recipe, work)
            self._lists = lists
        return self._lists

    def _write(self, stack: Sequence[Layer], made: Sequence[Made]) -> Content:
        paths = [self._path(layer) for layer in stack]
        digest = content_digest(self._recipe, stack)
        path = self._store / "contents" / digest
        with claimed(self._store / "building" / digest) as work:
            if not path.is_dir():
                seen = visible(stack)
                trees = [self._path(layer) / "tree" for layer in seen]
                place = Workplace(work, trees, self._overlay, self._space)
                place.out.mkdir()
                content = write_content(self._recipe, digest, paths, made, place)
                (place.out / "content.json").write_bytes(msgspec.json.encode(content))
                publish(place.out, path)
            link(self._store / "inputs" / self._recipe.key(), path, work)
        return msgspec.json.decode((path / "content.json").read_bytes(), type=Content)


def _read(path: Path) -> Layer:
    return msgspec.json.decode((path / "layer.json").read_bytes(), type=Layer)
