"""What each part costs, beside what nothing could be faster than.

Usage: ``python -m bench.micro [PART...]``, by default all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path

from bench import record
from bench.figures import Figure, table

_PARTS = ("start", "images", "boots", "clone", "commands", "files", "waits", "networks", "reports")


def measure(part: str) -> list[Figure]:
    """The figures of one part."""
    print(f"measuring {part}", file=sys.stderr)
    figures: list[Figure] = importlib.import_module(f"bench.{part}").figures()
    return figures


def main() -> None:
    """Print the table, and write a record."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(_PARTS))
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/micro.json"))
    options = parser.parse_args()
    figures = [each for part in options.parts or _PARTS for each in measure(part)]
    print(*table(figures), sep="\n")
    written = {each.name: dataclasses.asdict(each) for each in figures}
    record.write(options.out, written, {each.name: each.ratio for each in figures})
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
