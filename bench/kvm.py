"""What a clone costs where nothing is translated: times, and counts that are the same everywhere.

For each VMM that is here (QEMU, Firecracker, Cloud Hypervisor), of `attest run` with KVM:

- seconds from its start until its first VMM is started, until a machine that boots has answered
  its first command, and until a clone has;
- until the clone's first answer: system calls, processes and threads of the driver, of what it
  starts, and of the VMM, exits of the virtual machine, page faults, bytes read, memory;
- how the counts grow with the machine's memory, its disks, and the number of machines.

Beside each figure is that of `bench/kvm.json`, a record of the same program. Without KVM, QEMU is
measured in software emulation, where times say little and exits are none.

Usage: ``python -m bench.kvm [--runs N] [--image IMAGE] [--vmm VMM]... [--small]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attest.errors import HostError
from attest.events import Kind
from attest.host.kvm_probe import probe_kvm
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.machine.instance_states import Stage
from attest.vmm.registry import BACKENDS
from bench import calls, record
from bench.answered import EXITS, SCRIPT
from bench.runs import Home, Run, home

_OURS = Path(__file__).with_name("kvm.json")

__all__ = ["COUNTS", "TIMES", "Setting", "growth", "measure"]

Figures = dict[str, float]
"""By the row of the tables; what cannot be had here is not among them."""

TIMES = ("start to first VMM, s", "boot to first answer, s", "clone to first answer, s")
COUNTS = (
    "system calls, driver",
    "system calls, its helpers",
    "system calls, VMM",
    "exits",
    "processes",
    "threads, driver",
    "page faults, VMM",
    "KiB read, VMM",
    "KiB from disk, VMM",
    "KiB read, driver",
    "MiB (PSS), VMM",
)


@dataclass(frozen=True)
class Fleet:
    """The machines of a test.

    Attributes:
        memory: MiB of each.
        disks: How many each has, beside its root.
        machines: How many there are.
    """

    memory: int = 256
    disks: int = 0
    machines: int = 1


_BASE = Fleet()
_LARGER = {
    "2 GiB": Fleet(memory=2048),
    "4 disks": Fleet(disks=4),
    "8 machines, each": Fleet(machines=8),
}
_LITTLE_LARGER = {"2 machines, each": Fleet(machines=2)}


@dataclass(frozen=True)
class Setting:
    """With what a VMM is measured.

    Attributes:
        home: A cache of the benchmark's.
        vmm: The VMM's name.
        program: Its program.
        accelerator: Of the machines.
        image: Of the machines.
        runs: How many runs medians are of.
        place: A directory for manifests.
    """

    home: Home
    vmm: str
    program: Path
    accelerator: str
    image: str
    runs: int
    place: Path = field(repr=False)

    def manifest(self, fleet: Fleet) -> Path:
        """A test of these machines, which each answer one command."""
        node: dict[str, Any] = {"image": self.image, "memory": fleet.memory, "vmm": self.vmm}
        if fleet.disks:
            node["disks"] = [{"size": 64}] * fleet.disks
        test = {
            "name": "clone",
            "nodes": {f"m{number}": node for number in range(fleet.machines)},
            "script": SCRIPT.format(path=str(self._answered)),
        }
        path = self.place / "test.json"
        path.write_text(json.dumps(test))
        return path

    @property
    def _answered(self) -> Path:
        return self.place / "answered.json"

    def run(self, fleet: Fleet, *options: str) -> tuple[Run, dict[str, float]]:
        """Run a test, and what the machines had taken when they had answered.

        ``answered`` counts from the start of the process.
        """
        manifest = self.manifest(fleet)
        run = self.home.attest(manifest, *options, accelerator=self.accelerator)
        _require_clones(run.events)
        taken = json.loads(self._answered.read_text())
        return run, taken | {"answered": taken["answered"] - run.begun}

    def traced(self, fleet: Fleet) -> calls.Calls:
        """The system calls of a test whose machines are clones."""
        command = [sys.executable, "-m", "bench.patient", "run", "--accel", self.accelerator,
                   "-o", str(self.place), str(self.manifest(fleet))]  # fmt: skip
        counted = calls.count(command, self.home.environment, self.program)
        journal = (self.place / "events.jsonl").read_text()
        _require_clones([json.loads(line) for line in journal.splitlines()])
        return counted


def _require_clones(events: Sequence[Mapping[str, Any]]) -> None:
    """Exit if a snapshot did not restore, so that its machine has booted."""
    for event in events:
        if event["kind"] == Kind.WARNING:
            sys.exit(f"{event['machine']}: {event['text']}")


def measure_times(setting: Setting) -> Figures:
    """From the start of `attest run`, medians."""
    boots = [setting.run(_BASE, "--cold")[1]["answered"] for _ in range(setting.runs)]
    setting.run(_BASE)  # makes the snapshot
    clones = [setting.run(_BASE) for _ in range(setting.runs)]
    started = [min(event["time"] for event in run.stages(Stage.VMM)) for run, _ in clones]
    answered = [taken["answered"] for _, taken in clones]
    return dict(zip(TIMES, map(statistics.median, (started, boots, answered)), strict=True))


def measure_counts(setting: Setting, fleet: Fleet) -> Figures:
    """Until all clones have answered: for each machine; medians, and of system calls one run."""
    setting.run(fleet)  # makes the snapshot
    runs = [setting.run(fleet)[1] for _ in range(setting.runs)]
    taken = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    figures = {
        "page faults, VMM": taken["faults"],
        "KiB read, VMM": taken["read"] / 1024,
        "KiB from disk, VMM": taken["read from disk"] / 1024,
        "KiB read, driver": taken["driver's read"] / 1024,
        "MiB (PSS), VMM": taken["pss"],
    }
    if "exits" in taken:
        figures["exits"] = taken["exits"]
    if not calls.absence():
        traced = setting.traced(fleet)
        figures |= {
            "system calls, driver": traced.driver.total(),
            "system calls, its helpers": traced.helpers.total(),
            "system calls, VMM": traced.vmms.total(),
            "processes": traced.processes,
            "threads, driver": traced.threads,
        }
    return {row: figures[row] / fleet.machines for row in COUNTS if row in figures}


def measure(setting: Setting, larger: Mapping[str, Fleet]) -> dict[str, Figures]:
    """All of a VMM: of one small machine, and of what is larger."""
    figures = {"one": measure_times(setting)}
    for name, fleet in {"one": _BASE, **larger}.items():
        figures[name] = figures.get(name, {}) | measure_counts(setting, fleet)
        said = "; ".join(f"{row}: {value:,.2f}" for row, value in figures[name].items())
        print(f"{setting.vmm}, {name}: {said}", file=sys.stderr)
    return figures


def growth(figures: Mapping[str, Figures]) -> dict[str, Figures]:
    """How many times as much of each is counted where something is larger."""
    one = figures["one"]
    return {
        name: {row: each[row] / one[row] for row in COUNTS if one.get(row)}
        for name, each in figures.items()
        if each is not one
    }


def _cell(value: float | None, digits: int) -> str:
    return f"{'-' if value is None else format(value, f',.{digits}f'):>16}"


def table(figures: Mapping[str, dict[str, Figures]], ours: Mapping[str, Any]) -> list[str]:
    """A row for each figure, with two columns for each VMM: here, and ours."""
    lines = [f"{'one clone':27}" + "".join(f"  {vmm:>16}  {'ours':>16}" for vmm in figures)]
    for row in (*TIMES, *COUNTS):
        digits = 2 if row in TIMES else 1 if row.startswith("MiB") else 0
        cells = [
            _cell(each.get(row), digits)
            for vmm, of in figures.items()
            for each in (of["one"], ours.get(vmm, {}).get("one", {}))
        ]
        lines.append(f"{row:27}  {'  '.join(cells)}")
    return lines


def growth_table(vmm: str, figures: Mapping[str, Figures]) -> list[str]:
    """A row for each count: how it grows."""
    ratios = growth(figures)
    lines = [f"{vmm + ', times as much with':27}" + "".join(f"  {name:>16}" for name in ratios)]
    for row in COUNTS:
        if any(row in each for each in ratios.values()):
            cells = "  ".join(f"{ratios[name][row]:16.2f}" for name in ratios)
            lines.append(f"{row:27}  {cells}")
    return lines


def _programs(wanted: Sequence[str], accelerator: str) -> dict[str, Path]:
    """Those VMMs that are here, each with its program; says which are not."""
    found = {}
    for name in wanted or BACKENDS:
        lacks_kvm = name != "qemu" and accelerator != "kvm"
        try:
            if lacks_kvm:
                raise HostError("it needs KVM")
            program = BACKENDS[name].find("")
        except HostError as error:
            print(f"{name} is left out: {error}")
        else:
            print(f"{name}: {program}")
            found[name] = program.path
    return found


def _tell_what_is_missing(accelerator: str) -> None:
    if why := calls.absence():
        print(f"system calls, processes and threads are not counted: {why}")
    if accelerator == "kvm" and not os.access(EXITS, os.R_OK):
        print(f"exits are not counted: that needs root, and a kernel with {EXITS} (debugfs)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kvm", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--image", default="tiny", help="a recipe, or its path [default: tiny]")
    parser.add_argument("--vmm", action="append", choices=[*BACKENDS], default=[])
    parser.add_argument("--accel", choices=["kvm", "tcg"], help="default: KVM where it works")
    parser.add_argument("--small", action="store_true", help="one run of each, and less of it")
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench/kvm.json"))
    return parser.parse_args()


def _accelerator() -> str:
    probe = probe_kvm(image=ImageStore().build(load_recipe("tiny"), progress=print))
    if not probe.usable:
        print(f"There is no KVM here ({probe.reason}): QEMU is measured in software emulation")
    return "kvm" if probe.usable else "tcg"


def _ours(accelerator: str, image: str) -> Mapping[str, Any]:
    kept = json.loads(_OURS.read_text())
    same = kept["host"]["accelerator"] == accelerator and kept["figures"]["image"] == image
    found: Mapping[str, Any] = kept["figures"]["vmms"] if same else {}
    return found


def main() -> None:
    """Print the tables, and write a record."""
    options = _options()
    accelerator = options.accel or _accelerator()
    ImageStore().build(load_recipe(options.image), progress=print)
    programs = _programs(options.vmm, accelerator)
    _tell_what_is_missing(accelerator)
    figures = {}
    runs, larger = (1, _LITTLE_LARGER) if options.small else (options.runs, _LARGER)
    with home() as own, tempfile.TemporaryDirectory() as place:
        for vmm, program in programs.items():
            setting = Setting(own, vmm, program, accelerator, options.image, runs, Path(place))
            figures[vmm] = measure(setting, larger)
    print("", *table(figures, _ours(accelerator, options.image)), sep="\n")
    for vmm, each in figures.items():
        print("", *growth_table(vmm, each), sep="\n")
    ratios = {
        f"{vmm}, {row}: {name}": ratio
        for vmm, each in figures.items()
        for name, rows in growth(each).items()
        for row, ratio in rows.items()
    }
    record.write(
        options.out, {"image": options.image, "base": asdict(_BASE), "vmms": figures}, ratios,
        accelerator,
    )  # fmt: skip
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
