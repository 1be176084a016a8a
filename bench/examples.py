"""What each example takes, the first time and later: writes the figures of examples/README.md.

Usage: ``python -m bench.examples [--runs N] [NAME …]``, by default all examples and 3 later runs.

It has a cache of its own with the images that recipes begin with, and nothing else: a first run
fetches the packages, builds the images and boots. Where others use the machine, too, the figures
are theirs as well.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attest.support.paths import cache_dir
from bench.figures import environment
from bench.runs import timed

_EXAMPLES: Final = Path(__file__).parents[1] / "examples"
_PAGE: Final = _EXAMPLES / "README.md"
_BASES: Final = ("debian", "tiny")


@contextmanager
def _new_cache() -> Iterator[Mapping[str, str]]:
    """The environment of processes whose cache has the bases."""
    with tempfile.TemporaryDirectory(dir=cache_dir()) as directory:
        env = environment(Path(directory)) | {"XDG_CACHE_HOME": directory}
        try:
            for base in _BASES:
                _attest(env, "image", "build", base)
            yield env
        finally:
            _attest(env, "image", "gc", "--days", "0")  # no user can remove layers by himself


def _attest(env: Mapping[str, str], *arguments: str) -> float:
    """Run it, and return the seconds that it took."""
    return timed([sys.executable, "-m", "attest", *arguments], env).wall


def _enter(name: str, first: float, later: float) -> None:
    """Put an example's figures into its row."""
    figures = " | ".join(
        f"{each:.0f} s" if each >= 10 else f"{each:.1f} s" for each in (first, later)
    )
    row = re.compile(rf"^(\| \[{name}\]\(.*) \| [\d.]+ s \| [\d.]+ s \|", re.MULTILINE)
    text, found = row.subn(rf"\1 | {figures} |", _PAGE.read_text())
    if not found:
        sys.exit(f"{_PAGE} has no row for {name}")
    _PAGE.write_text(text)
    print(f"{name:16} {figures}", flush=True)


def main() -> None:
    """Measure, one example after the other."""
    parser = argparse.ArgumentParser(prog="python -m bench.examples", description=__doc__)
    there = sorted(path.parent.name for path in _EXAMPLES.glob("*/test.toml"))
    parser.add_argument("names", nargs="*", metavar="NAME", default=there)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with _new_cache() as env:
        for name in arguments.names:
            run = ("run", "--accel", "tcg", str(_EXAMPLES / name / "test.toml"))
            first = _attest(env, *run)
            _enter(
                name, first, statistics.median(_attest(env, *run) for _ in range(arguments.runs))
            )


if __name__ == "__main__":
    main()
