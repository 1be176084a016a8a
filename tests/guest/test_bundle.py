"""Images that another host has built: exported, imported into an empty cache, and booted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore

MANIFEST = """
script = "assert machine.succeed('echo $((6 * 7))') == '42\\\\n'"
[nodes.machine]
image = "tiny"
memory = 96
"""


def attest(*arguments: str | Path, cache: Path | None = None) -> str:
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    result = subprocess.run(
        [sys.executable, "-m", "attest", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_an_imported_image_boots_and_nothing_is_built(tmp_path: Path) -> None:
    manifest, bundle, cache = (tmp_path / name for name in ("test.toml", "images.zst", "cache"))
    manifest.write_text(MANIFEST)
    attest("cache", "export", bundle, manifest)
    assert "imported tiny" in attest("cache", "import", bundle, cache=cache)
    there = ImageStore().build(load_recipe("tiny"))
    (image,) = ImageStore(cache / "attest/images").images()
    assert image.digest == there.digest
    assert image.vmlinux.read_bytes() == there.vmlinux.read_bytes()
    said = attest("run", "--cold", "--accel", "tcg", manifest, cache=cache)
    assert "passed" in said
    assert "built" not in said
