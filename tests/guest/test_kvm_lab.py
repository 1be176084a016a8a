"""The lab: attest with KVM in a nested machine, and what it does when that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from kvm_lab import Lab, LabError

from attest.machine.machine import Machine
from attest.support.procfs import children

TOOL = Path(__file__).parents[2] / "tools/kvm_lab.py"


@pytest.mark.timeout(900)  # the first run builds an image
def test_the_short_form_of_the_tests_with_kvm(tmp_path: Path) -> None:
    command = [sys.executable, TOOL, tmp_path / "out", "-m", "short"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout.splitlines()[-1]
    report = ElementTree.parse(tmp_path / "out/results/junit.xml")
    assert len(report.findall(".//testcase")) >= 5


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    for name in ("checkout", "results"):
        (tmp_path / "payload" / name).mkdir(parents=True)
    return tmp_path / "payload"


def _freeze(machine: Machine) -> None:
    machine._lifecycle.vmm.pause()


def _kill(machine: Machine) -> None:
    assert machine.pid is not None
    (vmm,) = children(machine.pid)
    os.kill(vmm, 9)


@pytest.mark.parametrize(
    ("harm", "said"),
    [(_freeze, "no sign of life for 10 s"), (_kill, "the VMM ended (signal 9)")],
    ids=["frozen", "killed"],
)
def test_a_lab_that_stops_is_started_again(
    tiny: Machine,
    payload: Path,
    tmp_path: Path,
    harm: Callable[[Machine], None],
    said: str,
) -> None:
    printed: list[bytes] = []
    lines: list[str] = []

    def sink(data: bytes) -> None:
        printed.append(data)
        if len(printed) == 1:
            harm(tiny)

    lab = Lab(tiny, lines.append, patience=10)
    command = "echo here; sleep 3; echo so > ../results/how; exit 7"
    assert lab.run(payload, command, sink, tmp_path / "results") == 7
    assert (tmp_path / "results/how").read_text() == "so\n"
    assert printed == [b"here\n", b"\n", b"here\n"]
    assert lines == [f"{said}; it is started again"]


def test_a_lab_that_stops_again_gives_no_result(
    tiny: Machine, payload: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    lab = Lab(tiny, lines.append)

    def sink(data: bytes) -> None:
        if data == b"here\n":
            _kill(tiny)

    with pytest.raises(LabError, match="the VMM ended"):
        lab.run(payload, "echo here; sleep 1000", sink, tmp_path / "results")
    assert len(lines) == 1


def test_tests_that_do_not_end_are_ended(tiny: Machine, payload: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    with pytest.raises(LabError, match="did not end in 2 s"):
        Lab(tiny, print).run(payload, "echo > ../results/far; sleep 1000", print, results, 2)
    assert (results / "far").exists()
    tiny.wait_until_fails("pgrep -f 'sleep 1000'", timeout=30)
