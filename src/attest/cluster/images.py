"""The images that the nodes of a manifest boot."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from attest.errors import ManifestError, RecipeError
from attest.events import EventLog, Kind
from attest.image.described import is_description, load_described
from attest.image.model import Image
from attest.image.recipe import Recipe, load_recipe
from attest.image.store import ImageStore
from attest.manifest import Manifest

__all__ = ["build_all", "images_of", "recipes_of"]


def images_of(
    manifest: Manifest, events: EventLog, first: Callable[[Image], None]
) -> dict[str, Image]:
    """Each node's image by the node's name, built where it is missing.

    Args:
        manifest: Whose nodes they are.
        events: Where the builds are reported.
        first: Called with the first image that is there, while others may still be built.

    Raises:
        ManifestError: A node's image is none, or its recipe or description cannot be used.
        ImageBuildError: One could not be built.
    """
    store = ImageStore()
    images: dict[str, Image] = {}
    missing: dict[str, Recipe] = {}
    for reference, source in _sources(manifest).items():
        if isinstance(source, Image):
            images[reference] = source
        elif built := store.built(source):
            images[reference] = built
        else:
            missing[reference] = source
    tell_first = _Once(first)
    if images:
        tell_first(next(iter(images.values())))
    if missing:
        made = build_all(
            store, list(missing.values()), lambda text: events.emit(Kind.IMAGE, text), tell_first
        )
        images |= zip(missing, made, strict=True)
    return {name: images[node.image] for name, node in manifest.image_nodes().items()}


def recipes_of(manifest: Manifest) -> list[Recipe]:
    """The recipes of the nodes' images, each once; images that are described have none.

    Raises:
        ManifestError: A node's image is none, or its recipe or description cannot be used.
    """
    return [source for source in _sources(manifest).values() if isinstance(source, Recipe)]


def build_all(
    store: ImageStore,
    recipes: Sequence[Recipe],
    progress: Callable[[str], None],
    built: Callable[[Image], None] = lambda _: None,
) -> list[Image]:
    """Build images, as many at once as there are processors; the first failure ends all.

    Args:
        store: Where they go; those that are there are not built.
        recipes: Of which images.
        progress: Called with a line for each stage of a build, from several threads.
        built: Called with each image when it is there, likewise.

    Raises:
        RecipeError, HostError, ImageBuildError: As with `ImageStore.build`.
    """
    from attest.support.concurrency import wait_all  # most runs build nothing

    processors = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))

    def build(recipe: Recipe) -> Image:
        with processors:
            image = store.build(recipe, progress=lambda text: progress(f"{recipe.name}: {text}"))
        built(image)
        return image

    return wait_all(recipes, build)


class _Once:
    """Hands on the first image of several, which may come from several threads."""

    def __init__(self, take: Callable[[Image], None]) -> None:
        self._take = take
        self._lock = threading.Lock()

    def __call__(self, image: Image) -> None:
        if self._lock.acquire(blocking=False):  # and is held from then on
            self._take(image)


def _sources(manifest: Manifest) -> dict[str, Recipe | Image]:
    """What images are made from, by what nodes call them; those that are described are there."""
    sources: dict[str, Recipe | Image] = {}
    directory = Path(manifest.directory)
    for name, node in manifest.image_nodes().items():
        if node.image in sources:
            continue
        load = load_described if is_description(node.image) else load_recipe
        try:
            sources[node.image] = load(node.image, relative_to=directory)
        except RecipeError as error:
            where = f"{manifest.name}: nodes.{name}.image"
            raise ManifestError(f"{where}: {error.message}", hint=error.hint) from None
    return sources
