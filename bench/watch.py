"""`attest run --watch`: from the save of a script until its first command has answered.

Usage: ``python -m bench.watch [--rounds N] [--image NAME]``, by default 10 rounds of two Debian
machines. Each round has a save, and an `attest run` without ``--watch``, counted from its start.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.runs import Home, build_images, home

_MANIFEST = """\
script = "test.py"

[defaults]
image = "{image}"

[nodes."machine{{1..2}}"]
"""

_SCRIPT = """\
start_all()
machine1.succeed("true")
machine2.succeed("true")
# {number}
"""


class _Watcher:
    """The command, which waits for saves."""

    def __init__(self, own: Home, manifest: Path, out: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "attest", "run", "--watch", "--accel", "tcg", "-o", str(out),
             str(manifest)],
            env=own.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self) -> None:
        """Wait until the machines stand by."""
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            if "waiting for the next save" in line:
                return
            said.append(line)
        sys.exit("".join(said))

    def end(self) -> None:
        """End it as a user does."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate()


def _answered(out: Path) -> float:
    """When the first command of the run there had answered, in seconds since the epoch."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    started = next(each["data"]["started"] for each in events if each["kind"] == "run")
    ends = (each for each in events if each["kind"] == "command" and each.get("phase") == "end")
    return float(started + next(ends)["time"])


def _rounds(own: Home, directory: Path, count: int) -> tuple[list[float], list[float]]:
    manifest, script = directory / "test.toml", directory / "test.py"
    watched, anew = [], []
    watcher = _Watcher(own, manifest, directory / "watched")
    try:
        watcher.wait()
        for number in range(count):
            script.write_text(_SCRIPT.format(number=number))
            saved = script.stat().st_ctime
            watcher.wait()
            watched.append(_answered(directory / "watched") - saved)
            run = own.attest(manifest)
            ends = [each for each in run.events if each["kind"] == "command"]
            anew.append(float(next(each["time"] for each in ends if each.get("phase") == "end")))
    finally:
        watcher.end()
    return watched, anew


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.watch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--image", default="debian")
    arguments = parser.parse_args()
    with home() as own, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test.toml").write_text(_MANIFEST.format(image=arguments.image))
        (directory / "test.py").write_text(_SCRIPT.format(number="first"))
        build_images(directory / "test.toml")
        watched, anew = _rounds(own, directory, arguments.rounds)
    for what, seconds in (("attest run --watch", watched), ("attest run", anew)):
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"{what:20}  {statistics.median(seconds):7.3f} s  ({spread})")
    print(f"{'ratio':20}  {statistics.median(anew) / statistics.median(watched):7.1f}")


if __name__ == "__main__":
    main()
