"""Compare the ratios of two records, such as this machine's and the stored reference.

Usage: ``python -m bench.compare A.json B.json``. Seconds of two machines say nothing about a
change; ratios within one run do. Nothing fails: what is a change and what is noise, people see.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).with_name("reference.json")


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The lines of a table: of the ratios that both have."""
    lines = [f"{'ratio':44}  {'before':>8}  {'after':>8}  {'change':>7}"]
    old, new = before["ratios"], after["ratios"]
    for name in [name for name in new if old.get(name)]:
        change = (new[name] / old[name] - 1) * 100
        lines.append(f"{name:44}  {old[name]:8.2f}  {new[name]:8.2f}  {change:+5.0f} %")
    return lines


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bench.compare A.json B.json")
    before, after = (json.loads(Path(name).read_text()) for name in sys.argv[1:])
    print(*compare(before, after), sep="\n")


if __name__ == "__main__":
    main()
