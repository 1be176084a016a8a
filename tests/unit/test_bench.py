"""What the benchmarks make of what they have measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import calls, compare, kvm, record
from bench.clusters import check_identities
from bench.profile import ROWS, profile
from bench.runs import Run
from bench.scale import law


def event(time: float, kind: str, text: str = "", **more: Any) -> dict[str, Any]:
    return {"time": time, "kind": kind, "text": text, **more}


def span(number: int, kind: str, begin: float, end: float) -> list[dict[str, Any]]:
    return [
        event(begin, kind, phase="begin", span=number),
        event(end, kind, phase="end", span=number),
    ]


def test_a_profile_counts_each_moment_once() -> None:
    run = Run(
        10.0,
        5.0,
        [
            event(1.0, "stage", "VMM started"),
            event(3.0, "stage", "ready"),
            *span(1, "command", 2.0, 5.0),  # begun while another machine started
            *span(2, "command", 4.0, 6.0),  # at the same time as the first
            *span(3, "wait", 5.5, 7.0),
            event(9.0, "run", "passed"),
        ],
    )
    assert profile(run) == {
        "before the first VMM": 1.0,
        "machines start": 2.0,
        "commands": 3.0,
        "waits": 1.0,
        "copies": 0.0,
        "other actions": 0.0,
        "the script itself": 0.0,
        "after it": 3.0,
    }
    assert tuple(profile(run)) == ROWS


def test_growth_is_a_straight_line() -> None:
    base, slope = law([1, 4, 16], [12.0, 18.0, 42.0])
    assert (base, slope) == (pytest.approx(10), pytest.approx(2))


def test_ratios_that_both_records_have_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    record.write(before, {}, {"cold/warm": 4.0, "gone": 1.0})
    record.write(after, {"wall": [1]}, {"cold/warm": 5.0, "new": 1.0})
    monkeypatch.setattr("sys.argv", ["compare", str(before), str(after)])
    compare.main()
    said = capsys.readouterr().out
    assert "+25 %" in said
    assert "gone" not in said
    assert "new" not in said


def test_the_reference_is_a_record() -> None:
    reference = json.loads(compare.REFERENCE.read_text())
    assert {"host", "ratios"} <= set(reference)
    assert compare.compare(reference, reference)[1].endswith("+0 %")


STRACE = """\
10  execve("/usr/bin/python3", ["python3"], 0x7ff /* 40 vars */) = 0
10  clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x7f, exit_signal=0} => {}, 88) = 11
11  openat(AT_FDCWD, "/x", O_RDONLY) = 3
10  vfork( <unfinished ...>
12  execve("/usr/bin/vmm", ["/usr/bin/vmm", "--version"], 0x7ff /* 40 vars */ <unfinished ...>
10  <... vfork resumed>)              = 12
12  <... execve resumed>)             = 0
11  vfork( <unfinished ...>
13  execve("/usr/bin/nsenter", ["nsenter", "/usr/bin/vmm", "-S"], 0x7ff /* 40 vars */) = 0
11  <... vfork resumed>)              = 13
13  clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f) = 14
14  execve("/usr/local/bin/vmm", ["/usr/bin/vmm", "-S"], 0x7f /* 40 vars */) = -1 ENOENT (No)
14  execve("/usr/bin/vmm", ["/usr/bin/vmm", "-S"], 0x7ffd /* 40 vars */) = 0
14  mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, -1, 0) = 0x7f5837222000
14  clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x7f} => {}, 88) = 3 /* 15 in strace's PID NS */
15  ppoll([{fd=4, events=POLLIN}], 1, NULL, NULL, 8 <unfinished ...>
15  <... ppoll resumed>)              = 1
10  access("/attest-bench-mark", F_OK) = -1 ENOENT (No such file or directory)
15  write(1, "later", 5)              = 5
"""


def test_system_calls_are_the_driver_s_its_helpers_or_the_vmm_s() -> None:
    counted = calls.parse(STRACE.splitlines(), Path("/usr/bin/vmm"))
    assert counted.driver == {"execve": 1, "clone3": 1, "openat": 1, "vfork": 2}
    # The VMM's process before it was the VMM is a helper's, and so is one asked for its version.
    assert counted.helpers == {"execve": 4, "clone": 1}
    assert counted.vmms == {"mmap": 1, "clone3": 1, "ppoll": 1}
    assert (counted.processes, counted.threads) == (3, 1)


def test_growth_is_told_of_what_is_counted_alone() -> None:
    one = {"start to first VMM, s": 0.2, "processes": 4.0, "KiB from disk, VMM": 0.0}
    figures = {"one": one, "4 disks": one | {"processes": 6.0}}
    assert kvm.growth(figures) == {"4 disks": {"processes": 1.5}}


def test_two_machines_with_one_address_are_told() -> None:
    who = [["a", "id1", "mac1", "192.168.1.1"], ["b", "id2", "mac2", "192.168.1.2"]]
    check_identities(who)
    who[1][3] = who[0][3]
    with pytest.raises(SystemExit, match="2 machines have 1 different: address"):
        check_identities(who)
