"""The images that the nodes of a manifest boot."""

from __future__ import annotations

from pathlib import Path

from attest.errors import ManifestError, RecipeError
from attest.events import EventLog, Kind
from attest.image.described import is_description, load_described
from attest.image.model import Image
from attest.image.recipe import load_recipe
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
    built: dict[str, Image] = {}
    for name, node in manifest.image_nodes().items():
        if node.image in built:
            continue
        directory = Path(manifest.directory)
        try:
            if is_description(node.image):
                built[node.image] = load_described(node.image, relative_to=directory)
                continue
            recipe = load_recipe(node.image, relative_to=directory)
        except RecipeError as error:
            where = f"{manifest.name}: nodes.{name}.image"
            raise ManifestError(f"{where}: {error.message}", hint=error.hint) from None
        built[node.image] = store.build(recipe, progress=lambda text: events.emit(Kind.IMAGE, text))
    return {name: built[node.image] for name, node in manifest.image_nodes().items()}
