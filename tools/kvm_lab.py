#!/usr/bin/env python3
"""Run the tests in `tests/kvm`: on this host where KVM works, else in the lab.

The lab is a nested machine of attest's own, which starts from its snapshot.

Usage: tools/kvm_lab.py OUT [argument of pytest ...]
       tools/kvm_lab.py OUT --bench [argument of bench.kvm ...]

OUT is a directory for the JUnit report, the files of tests that failed, what pytest printed, and
the lab's console; what it held is removed. With `--bench`, it gets the record of `bench.kvm`, which
runs instead. The exit code is that of what was run, or 9 where there is none.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import lab_payload

from attest.cluster.cluster import Cluster
from attest.errors import AttestError, ChannelError, MachineError
from attest.events import Event, EventLog, Kind
from attest.guest.channel import Command, Sink
from attest.host.kvm_probe import probe_kvm
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.machine.machine import Machine
from attest.report.journal import journal
from attest.support.scratch import Scratch
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.nested import STEADY_QEMU

__all__ = ["Frozen", "Lab", "LabError", "lab_machine"]

_ROOT: Final = Path(__file__).resolve().parents[1]
_RECIPE: Final = _ROOT / "tests/kvm/kvm-lab.toml"
_INSIDE: Final = "/srv/lab"

_LIMIT: Final = 3600.0
"""Seconds for all tests; each has a limit of its own, which is pytest's to watch."""

_TEST_LIMIT: Final = 600
"""Seconds for a test in the lab, whose machines are emulated twice."""

_PATIENCE: Final = 60.0
"""Seconds without a sign of life, after which the lab is frozen; it gives one every second."""

_REAPED: Final = 5.0
"""Seconds: the connection to a VMM that ends closes a moment before its process is gone."""

_NO_RESULT: Final = 9

_BENCH: Final = "--bench"

_COUNT_EXITS: Final = "mount -t debugfs debugfs /sys/kernel/debug"
"""Where the lab's kernel says how often its machines have left their processors."""

_IN_LAB: Final = ("-p", "no:cacheprovider", f"--timeout={_TEST_LIMIT}")

_SEEN: Final = {"ATTEST_KVM_SEEN": "1"}
"""Tells the tests that KVM works where they run: they shall fail without it, not be skipped."""

_SHOWN: Final = (Kind.IMAGE, Kind.WARNING, Kind.ALARM)


class LabError(Exception):
    """The lab gave no result; the text says why."""


class Frozen(LabError):
    """The lab does not answer any more."""


class Lab:
    """The lab's machine, with a watchdog.

    Args:
        machine: It.
        say: Takes a line for whoever waits.
        patience: Seconds without a sign of life, after which it is frozen.
    """

    def __init__(
        self, machine: Machine, say: Callable[[str], None], patience: float = _PATIENCE
    ) -> None:
        self._machine = machine
        self._say = say
        self._patience = patience

    def run(
        self, payload: Path, command: str, sink: Sink, results: Path, limit: float = _LIMIT
    ) -> int:
        """Run a command where the payload is; a second time when it froze.

        Args:
            payload: What is copied into it.
            command: For its shell, in the payload's ``checkout``.
            sink: Takes what the command prints.
            results: What the payload's ``results`` become.
            limit: Seconds.

        Returns:
            The command's exit code.

        Raises:
            LabError: There is none.
        """
        try:
            return self._run(payload, command, sink, results, limit)
        except Frozen as frozen:
            self._machine.crash()
            sink(b"\n")  # a line that was being printed
            self._say(f"{frozen}; it is started again")
            return self._run(payload, command, sink, results, limit)

    def _run(self, payload: Path, command: str, sink: Sink, results: Path, limit: float) -> int:
        self._machine.connect()
        with self._watched():
            self._machine.execute(f"rm -rf {_INSIDE}")  # of a run that froze
            self._machine.copy_from_host(payload, _INSIDE)
            channel = self._machine._lifecycle.ready()
            process = channel.start(
                Command(f"cd {_INSIDE}/checkout && {command}"), stdout=sink, stderr=sink
            )
            try:
                return process.wait(limit).status
            except TimeoutError:
                process.abandon()
                raise LabError(f"the tests did not end in {limit:g} s") from None
            finally:
                # What cannot be brought is links of pytest's own.
                channel.get(f"{_INSIDE}/results", results)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        pulse = self._machine.spawn("while sleep 1; do echo; done")
        stopped = threading.Event()

        def watch() -> None:
            try:
                while pulse.read(self._patience):
                    pass
            except TimeoutError:
                stopped.set()
                self._machine.crash()
            except ChannelError:
                pass  # the machine has ended, as whoever waits for the tests learns too

        watcher = threading.Thread(target=watch, name="watch the lab", daemon=True)
        watcher.start()
        try:
            yield
        except MachineError as error:
            if stopped.is_set():
                raise Frozen(f"no sign of life for {self._patience:g} s") from error
            if self._machine._lifecycle.vmm.wait(_REAPED):
                raise Frozen(self._machine.absence) from error
            raise LabError(str(error)) from error
        finally:
            pulse.abandon()
            watcher.join()


@contextmanager
def lab_machine(out: Path, say: Callable[[str], None]) -> Iterator[Machine]:
    """The lab's machine, which has not been started.

    Args:
        out: An existing directory for its console and its events.
        say: Takes a line for whoever waits.
    """

    def tell(event: Event) -> None:
        if event.kind in _SHOWN:
            say(event.text)

    # More CPUs freeze it under an older QEMU.
    vcpus = 2 if find_qemu().version >= STEADY_QEMU else 1
    node = {
        "image": str(_RECIPE), "memory": 3072, "root_size": 16384, "vcpus": vcpus,
        "nested": True, "vlans": [], "start_timeout": 600,
    }  # fmt: skip
    events = EventLog()
    events.subscribe(tell)
    with (
        journal(events, out / "events.jsonl"),
        Cluster({"nodes": {"lab": node}}, accelerator="tcg", out_dir=out, events=events) as cluster,
    ):
        yield cluster["lab"]


def run_in_lab(out: Path, arguments: Sequence[str]) -> int:
    """Run pytest, or `bench.kvm`, in the lab; its exit code.

    Raises:
        LabError: It has none.
        AttestError: The lab does not start.
    """
    image = ImageStore().build(load_recipe(str(_RECIPE)), progress=_say)
    payload = Scratch()
    with (
        ExitStack() as undo,
        ThreadPoolExecutor(1) as pool,
        lab_machine(out, _say) as machine,
        (out / "lab.log").open("wb") as log,
    ):
        undo.callback(payload.close)
        payload.create()
        filled = pool.submit(lab_payload.fill, payload.path, image)
        machine.start()
        filled.result()
        lab = Lab(machine, _say)
        return lab.run(payload.path, _command(arguments), _tee(log.write), out / "results")


def run_here(out: Path, arguments: Sequence[str]) -> int:
    """Run pytest, or `bench.kvm`, on this host; its exit code."""
    (out / "results").mkdir()
    command = [sys.executable, *_module(out / "results", arguments)]
    return subprocess.call(command, cwd=_ROOT, env=os.environ | _SEEN)


def _command(arguments: Sequence[str]) -> str:
    programs = {name: f"{_INSIDE}/bin/{path.name}" for name, path in lab_payload.programs().items()}
    environment = {
        "PYTHONPATH": f"{_INSIDE}/site", "XDG_CACHE_HOME": f"{_INSIDE}/cache", **programs, **_SEEN,
    }  # fmt: skip
    return f"{_COUNT_EXITS} && " + shlex.join([
        "env", *(f"{name}={value}" for name, value in environment.items()),
        "python3", *_module(Path(_INSIDE, "results"), arguments, *_IN_LAB),
    ])  # fmt: skip


def _module(results: Path, arguments: Sequence[str], *more: str) -> list[str]:
    """What Python is to run; ``more`` is for pytest alone."""
    if arguments[:1] == [_BENCH]:
        return ["-m", "bench.kvm", f"--out={results}/kvm.json", *arguments[1:]]
    return [
        "-m", "pytest", *more,
        "--override-ini=testpaths=tests/kvm", "--override-ini=tmp_path_retention_policy=failed",
        f"--junitxml={results}/junit.xml", f"--basetemp={results}/tmp", *arguments,
    ]  # fmt: skip


def _tee(write: Callable[[bytes], object]) -> Sink:
    def sink(data: bytes) -> None:
        write(data)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    return sink


def _say(line: str) -> None:
    print(f"lab: {line}", flush=True)


def main(out: Path, arguments: Sequence[str]) -> int:
    """Run the tests where they can be run; the exit code."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tiny = ImageStore().build(load_recipe("tiny"), progress=_say)
    probe = probe_kvm(image=tiny)
    try:
        if probe.usable:
            return run_here(out, arguments)
        _say(f"{probe.reason}; so the tests run in a nested machine")
        _say(f"results go to {out}")
        return run_in_lab(out, arguments)
    except (LabError, AttestError) as error:
        _say(str(error))
    except subprocess.CalledProcessError as error:
        _say(f"{shlex.join(map(str, error.cmd))} failed\n{error.stdout}")
    return _NO_RESULT


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
