"""A file of the host that has changed: from `attest run` until the first command has answered.

Usage: ``python -m bench.host_files [--rounds N] [--image NAME] [--mib N]``, by default 5 rounds of
a Debian machine with a file of 1 MiB. Each round has every kind of run, one after the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from bench.runs import Home, Run, build_images, home

_STEP = "cp /srv/app.whl /srv/installed"

_MANIFEST = """\
script = "machine.succeed('true')"

[nodes.machine]
image = "{image}"
files = {{ {files} }}
warm_steps = [{steps}]
"""


class _Test:
    """A test whose machine has a file, and that file.

    Args:
        directory: An empty directory.
        image: What the machine boots.
        size: MiB of the file.
    """

    def __init__(self, directory: Path, image: str, size: int) -> None:
        self.manifest = directory / "test.toml"
        self._image = image
        self._file = directory / "app.whl"
        self._size = size
        self.change()
        self.write()

    def change(self) -> None:
        """Build the file anew."""
        self._file.write_bytes(os.urandom(self._size << 20))

    def write(self, *steps: str, files: str = '"/srv/app.whl" = "app.whl"') -> None:
        """Let the machine have these warm steps and files."""
        written = ", ".join(f'"{step}"' for step in steps)
        self.manifest.write_text(_MANIFEST.format(image=self._image, files=files, steps=written))


def _answered(run: Run) -> float:
    """When the script's command had answered."""
    ends = [
        each["time"]
        for each in run.events
        if each["kind"] == "command" and each["text"] == "true" and each.get("phase") == "end"
    ]
    return float(ends[0])


def _round(own: Home, test: _Test, number: int) -> dict[str, float]:
    found = {}

    def measure(name: str, *options: str) -> None:
        found[name] = _answered(own.attest(test.manifest, *options))

    test.write()
    own.attest(test.manifest)  # makes the snapshot
    measure("nothing has changed")
    test.change()
    measure("the file has changed")
    test.write(_STEP)
    measure("a step was added")
    test.change()
    measure("the file has changed, before a step")
    test.write(f"{_STEP}-{number}")
    measure("the step has changed")
    measure("it boots, with --cold", "--cold")
    test.write(files="")
    own.forget_snapshots()
    measure("the first run of a machine without files")
    test.write()
    own.forget_snapshots()
    measure("the first run: it boots, and is saved twice")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.host_files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", default="debian")
    parser.add_argument("--mib", type=int, default=1)
    arguments = parser.parse_args()
    with home() as own, tempfile.TemporaryDirectory() as directory:
        test = _Test(Path(directory), arguments.image, arguments.mib)
        build_images(test.manifest)
        own.attest(test.manifest)  # makes the snapshots
        rounds = [_round(own, test, number) for number in range(arguments.rounds)]
    for name in rounds[0]:
        times = [each[name] for each in rounds]
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"{name:44}  {statistics.median(times):6.2f} s  ({spread})")


if __name__ == "__main__":
    main()
