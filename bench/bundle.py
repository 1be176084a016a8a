"""A host with an empty cache: its image imported, or built, and the first run.

Usage: ``python -m bench.bundle [--rounds N] [--image NAME]``, by default 3 rounds of `debian`.
Each has two new caches. Into one the image is imported that this user's cache has; in the other it
is built, of packages that are fetched. Seconds are those of whole processes, by the clock and of
the processor, and medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from attest.support.claims import remove
from attest.support.paths import cache_dir
from bench import record
from bench.runs import Run, timed

_MANIFEST = """\
script = "machine.succeed('true')"

[nodes.machine]
image = "{image}"
"""


def _round(directory: Path, image: str) -> dict[str, Run]:
    manifest, bundle = directory / "test.toml", directory / "images.zst"
    manifest.write_text(_MANIFEST.format(image=image))

    def attest(*arguments: str | Path, cache: str = "") -> Run:
        env = {**os.environ, **({"XDG_CACHE_HOME": str(directory / cache)} if cache else {})}
        return timed([sys.executable, "-m", "attest", *map(str, arguments)], env)

    attest("image", "build", image)
    exported = attest("cache", "export", bundle, manifest)
    print(f"{bundle.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)
    return {
        "exported": exported,
        "imported": attest("cache", "import", bundle, cache="a"),
        "built": attest("image", "build", image, cache="b"),
        "the first run": attest("run", manifest, cache="a"),
        "a later run": attest("run", manifest, cache="a"),
    }


def main() -> None:
    """Print the table, and write a record."""
    parser = argparse.ArgumentParser(prog="python -m bench.bundle", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", default="debian")
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/bundle.json"))
    options = parser.parse_args()
    rounds = []
    for number in range(options.rounds):
        place = Path(tempfile.mkdtemp(prefix="bench-bundle-", dir=cache_dir()))
        try:
            rounds.append(_round(place, options.image))
        finally:
            remove(place)  # layers have files of other ids
        seconds = {name: (run.wall, run.cpu) for name, run in rounds[-1].items()}
        print(f"round {number + 1}: {seconds}", file=sys.stderr)
    figures = {name: [each[name].wall for each in rounds] for name in rounds[0]}
    medians = {name: statistics.median(seconds) for name, seconds in figures.items()}
    processor = {name: statistics.median(each[name].cpu for each in rounds) for name in figures}
    print(*(f"{name}: {value}" for name, value in record.host().items()), sep="\n")
    print(f"\n{f'seconds, medians of {options.rounds}':30}  {'takes':>7}  {'of the processor':>16}")
    for name, median in medians.items():
        print(f"{name:30}  {median:7.2f}  {processor[name]:16.2f}")
    ratios = {"imported/built": medians["imported"] / medians["built"]}
    record.write(options.out, figures, ratios)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
