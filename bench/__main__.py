"""The three workloads on every side, in turn, and where each run's time goes.

    make bench
    make bench ARGS='--rounds 5 --nixos-driver DIR'
    make bench ARGS=examples/chain/test.toml

Sides, each of which runs the same script on machines of the same image:

- nixos: NixOS's own driver, where its directory is given; else baseline, attest in its way;
- cold: attest, booting every machine;
- first: attest, when it has no snapshot yet;
- warm: attest, as from the second run on.

Seconds are those of whole processes, and medians of all rounds; each round runs every side once, so
that what slows the machine down for a while slows all of them down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from bench import record
from bench.compare import REFERENCE, compare
from bench.nixos import Baseline, Nixos
from bench.profile import ROWS, profile
from bench.runs import Home, Run, build_images, home

_HERE = Path(__file__).parent
_WORKLOADS = tuple(
    _HERE / "workloads" / name / "test.toml"
    for name in ("module-smoke", "policy-reload", "cli-integration")
)
_SHORT = (_HERE / "answers" / "test.toml",)

Runs = dict[str, dict[str, list[Run]]]
"""By workload and side."""


def _sides(own: Home, others: Sequence[Baseline | Nixos]) -> dict[str, Callable[[Path], Run]]:
    def first(manifest: Path) -> Run:
        own.forget_snapshots()
        return own.attest(manifest)

    sides: dict[str, Callable[[Path], Run]] = {each.name: each.run for each in others}
    sides["cold"] = lambda manifest: own.attest(manifest, "--cold")
    sides["first"] = first
    sides["warm"] = own.attest  # from what the first has left
    return sides


def _measure(
    workloads: Sequence[Path], sides: dict[str, Callable[[Path], Run]], rounds: int
) -> Runs:
    runs: Runs = {each.parent.name: {side: [] for side in sides} for each in workloads}
    for number in range(rounds):
        for manifest in workloads:
            name = manifest.parent.name
            for side, run in sides.items():
                one = run(manifest)
                runs[name][side].append(one)
                print(f"round {number + 1}: {name}, {side}: {one.wall:.1f} s", file=sys.stderr)
    return runs


def _median(runs: Sequence[Run]) -> float:
    return statistics.median(run.wall for run in runs)


def _totals(runs: Runs) -> dict[str, float]:
    """By side, the sum of all workloads' medians."""
    sides = next(iter(runs.values()))
    return {side: sum(_median(of[side]) for of in runs.values()) for side in sides}


def _table(runs: Runs) -> list[str]:
    totals = _totals(runs)
    slow = next(iter(totals))
    others = [side for side in totals if side != slow]
    heads = "".join(f"  {side:>9}" for side in totals)
    ratios = "".join(f"  {f'{slow}/{side}':>14}" for side in others)
    lines = [f"{'':17}{heads}{ratios}"]
    rows = {name: {side: _median(of[side]) for side in totals} for name, of in runs.items()}
    for name, row in {**rows, "together": totals}.items():
        cells = "".join(f"  {row[side]:9.2f}" for side in totals)
        cells += "".join(f"  {row[slow] / row[side]:14.1f}" for side in others)
        lines.append(f"{name:17}{cells}")
    return lines


def _profile(name: str, of: dict[str, list[Run]]) -> list[str]:
    sides = [side for side, runs in of.items() if runs[0].events]
    lines = [f"{name + ', seconds':25}" + "".join(f"  {side:>7}" for side in sides)]
    profiles = {side: [profile(run) for run in of[side]] for side in sides}
    for row in ROWS:
        cells = [statistics.median(each[row] for each in profiles[side]) for side in sides]
        lines.append(f"{row:25}" + "".join(f"  {cell:7.2f}" for cell in cells))
    return lines


def _ratios(runs: Runs) -> dict[str, float]:
    """Of each workload and of all: how many times as fast each side is as those before it."""
    rows = {
        name: {side: _median(each) for side, each in of.items()} for name, of in runs.items()
    } | {"together": _totals(runs)}
    return {
        f"{name}: {slow}/{fast}": row[slow] / row[fast]
        for name, row in rows.items()
        for slow, fast in combinations(row, 2)
    }


def _figures(runs: Runs) -> dict[str, Any]:
    return {
        name: {
            side: [
                {
                    "wall": run.wall,
                    "cpu": run.cpu,
                    **({"profile": profile(run)} if run.events else {}),
                }
                for run in each
            ]
            for side, each in of.items()
        }
        for name, of in runs.items()
    }


def main() -> None:
    """Run all, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("manifests", nargs="*", type=Path, metavar="MANIFEST",
                        help="other tests, which run on attest's sides only")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nixos-driver", type=Path, metavar="DIR",
                        help="nixos/lib/test-driver of a nixpkgs")  # fmt: skip
    parser.add_argument("--baseline", action="store_true", help="beside NixOS's driver too")
    parser.add_argument(
        "--short",
        action="store_true",
        help="the least test instead, and the ratios beside the reference's",
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/workloads.json"))
    options = parser.parse_args()
    only_attest = options.short or options.manifests
    workloads = options.manifests or (_SHORT if options.short else _WORKLOADS)
    others: list[Baseline | Nixos] = []
    if options.nixos_driver:
        others.append(Nixos(options.nixos_driver))
    for manifest in workloads:
        build_images(manifest)
    with home() as own:
        if options.baseline or not (options.nixos_driver or only_attest):
            others.append(Baseline(own))
        runs = _measure(workloads, _sides(own, others), options.rounds)
    print(*(f"{name}: {value}" for name, value in record.host().items()), sep="\n")
    print(f"\nseconds, medians of {options.rounds}", *_table(runs), sep="\n")
    for name, of in runs.items():
        print("", *_profile(name, of), sep="\n")
    ratios = _ratios(runs)
    if options.short:
        print("", *compare(json.loads(REFERENCE.read_text()), {"ratios": ratios}), sep="\n")
    record.write(options.out, _figures(runs), ratios)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
