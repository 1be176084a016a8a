"""The images that the nodes of a manifest boot."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from attest.errors import ManifestError, RecipeError
from attest.events import EventLog, Kind
from attest.image.described import is_description, load_described
from attest.image.model import Image
from attest.image.recipe import Recipe, load_recipe
from attest.image.store import ImageStore
from attest.manifest import Manifest

__all__ = ["images_of"]


def images_of(manifest: Manifest, events: EventLog) -> dict[str, Image]:
    """Each node's image by the node's name, built where it is missing.

    Args:
        manifest: Whose nodes they are.
        events: Where the builds are reported.

    Raises:
        ManifestError: A node's image is none, or its recipe or description cannot be used.
        ImageBuildError: One could not be built.
    """
    store = ImageStore()
    images: dict[str, Image] = {}
    recipes: dict[str, Recipe] = {}
    for name, node in manifest.image_nodes().items():
        if node.image in images or node.image in recipes:
            continue
        directory = Path(manifest.directory)
        try:
            if is_description(node.image):
                images[node.image] = load_described(node.image, relative_to=directory)
                continue
            recipe = load_recipe(node.image, relative_to=directory)
        except RecipeError as error:
            where = f"{manifest.name}: nodes.{name}.image"
            raise ManifestError(f"{where}: {error.message}", hint=error.hint) from None
        if built := store.built(recipe):
            images[node.image] = built
        else:
            recipes[node.image] = recipe
    if recipes:
        images |= _build(store, recipes, events)
    return {name: images[node.image] for name, node in manifest.image_nodes().items()}


def _build(store: ImageStore, recipes: dict[str, Recipe], events: EventLog) -> dict[str, Image]:
    """Build images, as many at once as there are processors; the first failure ends all."""
    from attest.support.concurrency import wait_all  # most runs build nothing

    processors = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))

    def build(recipe: Recipe) -> Image:
        with processors:
            return store.build(
                recipe, progress=lambda text: events.emit(Kind.IMAGE, f"{recipe.name}: {text}")
            )

    return dict(zip(recipes, wait_all(recipes.values(), build), strict=True))
