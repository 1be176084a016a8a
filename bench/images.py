"""Images: built, and found in the store."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.support.claims import remove
from attest.support.paths import cache_dir
from bench.figures import Figure, series


def figures() -> list[Figure]:
    """Of the tiny image and of Debian's; downloads are in the cache."""
    tiny, debian = load_recipe("tiny"), load_recipe("debian")
    store = ImageStore()
    found = store.build(debian)
    store.build(tiny)
    directory = tempfile.mkdtemp(dir=cache_dir())
    try:
        built = [_build(Path(directory, str(number)), "tiny") for number in range(2)]
        whole = [_build(Path(directory, "debian"), "debian")]
        base = [_base(Path(directory, "base"), debian.suite)]
        copied = series(3, lambda: _copy(found.path, Path(directory, "copy")))
    finally:  # layers have files of other ids
        remove(Path(directory))
    return [
        Figure("image, Debian, built", whole, "mmdebstrap --variant=apt alone", base),
        Figure("image, tiny, built", built, "mmdebstrap --variant=apt alone", base),
        Figure("image, Debian, found", series(5, lambda: store.build(load_recipe("debian"))),
               "its files copied", copied),
    ]  # fmt: skip


def _build(store: Path, name: str) -> float:
    """Seconds to build an image in an empty store."""
    begun = time.perf_counter()
    ImageStore(store).build(load_recipe(name))
    return time.perf_counter() - begun


def _base(directory: Path, suite: str) -> float:
    command = ["mmdebstrap", "--quiet", "--variant=apt", suite, str(directory.with_suffix(".tar"))]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    shutil.rmtree(target)
