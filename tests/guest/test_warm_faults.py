"""What goes wrong with cached snapshots: the test runs all the same, and says what it was."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from attest.cluster.cluster import Cluster
from attest.errors import AttestError, MachineError
from attest.events import Event, EventLog, Kind
from attest.guest.agent.binary import agent_binary
from attest.machine.instance_states import Limits
from attest.machine.machine import Machine
from attest.provision import making
from attest.provision.preparation import NotSavedError
from attest.snapshot.cache import Entry, SnapshotCache
from attest.snapshot.shape import Shape
from attest.support.paths import cache_dir
from attest.support.procfs import children
from attest.vmm.base import SaveError, Vmm
from tests.obtaining import obtain
from tests.qemus import OTHERS

NODE: dict[str, Any] = {"image": "tiny", "memory": 96}
LARGER = {**NODE, "memory": 100}
PAGE = 4096

MADE = "save tiny for later starts"
REMOVED = "its snapshot does not restore and was removed, so it boots: "
NOT_MADE = "no snapshot could be made, so it boots: "
NOT_SAVED = "no snapshot could be made: "

AT_A_MOMENT = """
import os, signal, sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def fill():
    snapshots = Path(os.environ["XDG_CACHE_HOME"], "attest/snapshots")
    with (snapshots / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(1 << 16))

happens, module, *owner, function = sys.argv.pop(1).split()
place = import_module(module)
for name in owner:
    place = getattr(place, name)
original = getattr(place, function)

def instead(*arguments, **named):
    setattr(place, function, original)
    globals()[happens]()
    return original(*arguments, **named)

setattr(place, function, instead)
from attest.cli import main
main()
"""
"""`attest`, but that something happens just before a function is called for the first time."""

Nodes = dict[str, dict[str, Any]]
Change = Callable[[Path], object]


class Home:
    """A cache directory for one test, whose images are everybody's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.snapshots = path / "attest/snapshots"
        self.snapshots.mkdir(parents=True)
        (path / "attest/images").symlink_to(cache_dir() / "images")

    def start(
        self,
        nodes: Nodes,
        *options: str,
        happens: str = "",
        inside: Sequence[str] = (),
        script: str = "",
        **environment: str,
    ) -> subprocess.Popen[str]:
        """Start a test that needs an answer of each node.

        Args:
            nodes: Its nodes.
            options: For `attest run`.
            happens: What goes wrong, and when: ``kill MODULE FUNCTION`` or ``fill …``.
            inside: A command that runs another one.
            script: What it does before.
            environment: More of it.
        """
        manifest = self.path / "test.json"
        script += "\nprint(wait_all(machines, lambda m: m.succeed('hostname').strip()))"
        manifest.write_bytes(
            msgspec.json.encode({"name": "test", "script": script, "nodes": nodes})
        )
        attest = ["-c", AT_A_MOMENT, happens] if happens else ["-m", "attest"]
        out = self.path / "out"
        return subprocess.Popen(
            [
                *inside, sys.executable, *attest, "run", "--accel", "tcg", "-o", out, *options,
                manifest,
            ],
            env={**os.environ, "XDG_CACHE_HOME": str(self.path), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(
        self, nodes: Nodes, *options: str, happens: str = "", inside: Sequence[str] = (),
        script: str = "", **environment: str,
    ) -> str:  # fmt: skip
        """Run such a test, which has to pass, and return what was said."""
        with self.start(
            nodes, *options, happens=happens, inside=inside, script=script, **environment
        ) as process:
            return passed(process, list(nodes))

    def entries(self) -> list[Entry]:
        return SnapshotCache(self.snapshots).entries()

    def put(self, shape: Shape, entry: Entry, change: Change = lambda _: None) -> Path:
        """Put copies of an entry's files under a shape, changed before they are written down."""

        def make(into: Path) -> None:
            for file in (entry.path / "memory", entry.path / "state"):
                subprocess.run(["cp", "--sparse=always", file, into], check=True)
            change(into)

        cache = SnapshotCache(self.snapshots)
        path = obtain(
            cache, shape, make, stop=threading.Event(), waiting=pytest.fail, broken=pytest.fail
        ).path
        cache.close()
        for thread in threading.enumerate():
            if thread.name == "sync a snapshot":
                thread.join()
        return path

    def left(self) -> list[str]:
        """What is in the cache beside its entries."""
        keys = {entry.path.name for entry in self.entries()}
        making = self.snapshots / "making"
        names = [path.name for path in self.snapshots.iterdir() if path.name not in keys]
        names += [path.name for path in making.iterdir()] if making.exists() else []
        return [name for name in names if name != "making"]


def passed(process: subprocess.Popen[str], names: list[str]) -> str:
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert f"{sorted(names)}\n" in said
    assert "test: passed" in said
    return said


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put into a cache here needs not to reach the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path / "home")
    shutil.rmtree(tmp_path / "home")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entry]:
    """A sound entry."""
    home = Home(tmp_path_factory.mktemp("made"))
    said = home.run({"one": NODE})
    assert "warning" not in said
    (entry,) = home.entries()
    yield entry
    shutil.rmtree(home.path)


def variant(entry: Entry, name: str) -> tuple[dict[str, Any], Shape]:
    """A node of another shape, and that, which the content fits as well: `tiny` has no units."""
    shape = msgspec.structs.replace(entry.shape, warm_until=f"{name}.target")
    return {**NODE, "warm_until": shape.warm_until}, shape


# Damaged


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def garble(path: Path) -> None:
    path.write_bytes(b'{"shape":')


def test_damaged_snapshots_are_made_anew(home: Home, made: Entry) -> None:
    faults: dict[str, tuple[Change, str, str]] = {
        "cut": (halve, "memory", "50331648 bytes, 100663296 were written"),
        "flipped": (flip, "memory", "it was changed after it had been written"),
        "lost": (Path.unlink, "memory", "No such file or directory"),
        "flipped_state": (flip, "state", "it was changed after it had been written"),
        "lost_state": (Path.unlink, "state", "No such file or directory"),
        "garbled": (garble, "entry.json", ""),
    }
    nodes = {}
    for name, (fault, file, _) in faults.items():
        nodes[name], shape = variant(made, name)
        fault(home.put(shape, made) / file)
    said = home.run(nodes)
    for name, (_, file, words) in faults.items():
        warning = f"{name}: warning: its snapshot was damaged and is made anew: {file}: {words}"
        assert said.count(warning) == 1, said
    assert said.count("warning") == said.count(MADE) == len(faults)
    assert len(home.entries()) == len(faults)
    assert home.left() == []


# Not restoring


def halve_state(into: Path) -> None:
    halve(into / "state")


def grow(into: Path) -> None:
    """The memory of a larger machine; the state is not."""
    os.truncate(into / "memory", LARGER["memory"] << 20)


def empty(into: Path) -> None:
    """Nothing is left of the kernel: the processor finds no code, and resets."""
    size = (into / "memory").stat().st_size
    os.truncate(into / "memory", 0)
    os.truncate(into / "memory", size)


def mute(into: Path) -> None:
    """The agent's code only spins, from wherever it goes on."""
    replace_agent(into, b"\x90" * (PAGE - 2) + b"\xeb\xfe")  # nop …, jmp to itself


def replace_agent(into: Path, code: bytes) -> None:
    """Replace each page of the agent's binary in the memory."""
    agent = agent_binary(platform.machine()).read_bytes()
    pages = {agent[place : place + PAGE] for place in range(0, len(agent), PAGE)} - {bytes(PAGE)}
    content = (into / "memory").read_bytes()
    places = [at for at in range(0, len(content), PAGE) if content[at : at + PAGE] in pages]
    assert places, "the agent is somewhere else"
    with (into / "memory").open("r+b") as memory:
        for place in places:
            memory.seek(place)
            memory.write(code)


def test_snapshots_that_do_not_restore_are_removed_and_told_once(
    home: Home, made: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.path))
    nodes = {}
    for name, change in (("cut", halve_state), ("empty", empty), ("mute", mute)):
        nodes[name], shape = variant(made, name)
        home.put(shape, made, change)
    nodes["mute2"] = nodes["mute"]  # both are under way when the first one is told
    nodes["larger"] = LARGER
    home.put(msgspec.structs.replace(made.shape, memory=LARGER["memory"]), made, grow)
    warnings: list[Event] = []
    events = EventLog()
    events.subscribe(lambda event: warnings.append(event) if event.kind is Kind.WARNING else None)
    fatal: list[AttestError] = []
    with Cluster(
        {"nodes": nodes}, accelerator="tcg", events=events, on_fatal=fatal.append,
        limits=Limits(trial=3),
    ) as cluster:  # fmt: skip
        cluster.start_all()
        for name in nodes:
            assert cluster[name].succeed("hostname").strip() == name
    told = {str(event.machine).rstrip("2"): event.text for event in warnings}
    assert fatal == []
    assert len(warnings) == len(told) == 4, warnings
    assert all(text.startswith(REMOVED) for text in told.values())
    assert "Size mismatch" in told["larger"]  # the VMM's own reason
    assert "the agent did not answer in 3 s" in told["mute"]
    assert home.entries() == []
    assert home.left() == []


@pytest.mark.parametrize("change", [halve_state, empty])
def test_where_the_snapshot_that_another_is_made_from_does_not_restore_one_boots(
    home: Home, made: Entry, change: Change
) -> None:
    home.put(made.shape, made, change)
    said = home.run({"one": {**NODE, "warm_steps": ["true"]}})
    warning = "the snapshot from which its own is made does not restore and was removed, so one"
    assert f"one: warning: {warning} boots: " in said
    assert said.count("warning") == said.count(MADE) == 1
    (entry,) = home.entries()
    assert entry.shape.warm_steps == ("true",)
    assert home.left() == []


def crash(into: Path) -> None:
    """The agent's code is none, so that the kernel panics as soon as it goes on."""
    replace_agent(into, b"\x06" * PAGE)


@pytest.mark.parametrize("change", [halve_state, crash])
def test_a_machine_whose_snapshot_did_not_restore_ends_as_any_other(
    home: Home, made: Entry, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.path))
    home.put(made.shape, made, change)
    others = threading.enumerate()  # of machines that several tests share
    exits: list[str] = []
    ended = threading.Event()

    def hear(event: Event) -> None:
        if event.kind is Kind.EXIT:
            exits.append(event.text)
            ended.set()

    events = EventLog()
    events.subscribe(hear)
    fatal: list[AttestError] = []
    with Cluster(
        {"nodes": {"one": NODE}}, accelerator="tcg", events=events, on_fatal=fatal.append
    ) as cluster:
        cluster["one"].execute("poweroff -f", check_output=False)
        assert ended.wait(60)
        for thread in threading.enumerate():
            if thread.name.startswith("watch ") and thread not in others:  # who may tell more
                thread.join()
    assert fatal == []
    assert exits == ["the VMM ended (exit code 0)"]
    assert home.entries() == []


DIES = (
    '(now=; while [ "$now" != one ]; do sleep 0.01; read now < /proc/sys/kernel/hostname; done;'
    " sleep 2; echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero) < /dev/null > /dev/null 2>&1 &"
)
"""A warm step after which a machine dies, a moment after it was told that it is `one`."""


@pytest.mark.parametrize("used", [False, True])
def test_a_clone_that_dies_a_moment_after_its_first_answer(
    home: Home, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.path))
    warnings: list[str] = []
    told = threading.Event()

    def hear(event: Event) -> None:
        if event.kind is Kind.WARNING:
            warnings.append(event.text)
            told.set()

    def fail(error: AttestError) -> None:
        fatal.append(error)
        failed.set()

    events = EventLog()
    events.subscribe(hear)
    fatal: list[AttestError] = []
    failed = threading.Event()
    node = {**NODE, "warm_steps": [DIES]}
    home.run({"maker": node})
    limits = Limits(probation=60)  # however busy the host
    with Cluster(
        {"nodes": {"one": node}}, accelerator="tcg", events=events, on_fatal=fail, limits=limits
    ) as cluster:
        one = cluster["one"]
        one.start()
        if used:
            one.connect()
        assert told.wait(60)
        (warning,) = warnings
        assert warning.startswith(f"{REMOVED}it died ")
        assert " s after its first answer: kernel panic: " in warning
        (before_the_step,) = home.entries()
        assert before_the_step.shape.warm_steps == ()
        if used:
            assert failed.wait(60)
            assert "restored from a snapshot, which its kernel may not survive" in fatal[0].hint
        else:
            assert one.succeed("hostname") == "one\n"
            assert fatal == []
    assert home.left() == []


def test_a_death_of_the_tests_doing_costs_no_snapshot(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.path))
    warnings: list[str] = []
    events = EventLog()
    events.subscribe(
        lambda event: warnings.append(event.text) if event.kind is Kind.WARNING else None
    )
    home.run({"maker": NODE})
    (entry,) = home.entries()

    def kill(machine: Machine) -> None:
        assert machine.pid is not None
        (vmm,) = children(machine.pid)
        os.kill(vmm, signal.SIGKILL)
        machine.succeed("true")

    def panic(machine: Machine) -> None:
        machine.succeed("echo c > /proc/sysrq-trigger")

    def panic_later(machine: Machine) -> None:
        machine.succeed("echo 2 > /proc/sys/vm/panic_on_oom")
        machine.succeed("tail /dev/zero")

    limits = Limits(probation=60)  # however busy the host
    with Cluster(
        {"nodes": {"one": NODE}}, accelerator="tcg", events=events, limits=limits
    ) as cluster:
        one = cluster["one"]
        for die in (kill, panic, panic_later):
            one.start()
            one.connect()
            with pytest.raises(MachineError) as met:
                die(one)
            assert "snapshot" not in met.value.hint
            one.crash()
        assert one.succeed("hostname") == "one\n"
    assert warnings == []
    assert [each.made for each in home.entries()] == [entry.made]


def test_what_makes_a_machine_boot_again_is_told(home: Home) -> None:
    assert "no snapshot fits" not in home.run({"one": NODE})
    said = home.run({"one": LARGER, "two": LARGER})
    assert said.count("no snapshot fits: memory 96 MiB → 100 MiB") == 1, said
    assert "no snapshot fits" not in home.run({"one": LARGER})


# Full disks


def disk(home: Home, size: str) -> list[str]:
    """Puts a command's snapshots on a disk of their own, which only it sees."""
    script = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    return [
        "unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", size,
        str(home.snapshots),
    ]  # fmt: skip


def test_a_disk_that_is_too_small_is_told(home: Home) -> None:
    said = home.run({"one": NODE}, inside=disk(home, "99m"))
    words = f"{home.snapshots} has 9[89] MiB free, the snapshot may need 160"
    assert re.search(f"one: warning: {NOT_MADE}{words}", said), said
    assert said.count("warning") == 1


@pytest.mark.parametrize(
    "moment",
    [
        "attest.machine.instance Instance _console_line",  # the guest boots
        "attest.provision.template bring_to",  # it is saved next
    ],
)
def test_a_machine_that_boots_goes_on_where_the_disk_fills_up(home: Home, moment: str) -> None:
    node = {**NODE, "memory": 128, "warm_steps": ["echo done > /step"]}
    script = "assert one.succeed('cat /step') == 'done\\n'"
    said = home.run(
        {"one": node}, happens=f"fill {moment}", inside=disk(home, "200m"), script=script
    )
    assert f"one: warning: {NOT_SAVED}the disk is full" in said, said
    assert said.count("warning") == 1
    assert said.count("one: ready") == 1


def test_a_disk_that_fills_up_while_another_is_made_from_a_snapshot_is_told(home: Home) -> None:
    node = {**NODE, "memory": 128}
    # A step that needs more of the memory of what has booted and was saved.
    larger = {**node, "warm_steps": ["dd if=/dev/zero of=/large bs=1M count=20"]}
    said = home.run(
        {"one": node, "two": larger}, happens="fill attest.provision.making _await_return",
        inside=disk(home, "500m"), script="one.succeed('true')",
    )  # fmt: skip
    assert f"two: warning: {NOT_MADE}the disk is full" in said, said
    assert said.count("warning") == 1


def test_what_is_made_from_a_snapshot_and_cannot_be_written_down_is_told(
    home: Home, made: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.put(made.shape, made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.path))
    warnings: list[str] = []

    def obstruct(event: Event) -> None:
        if event.kind is Kind.WARNING:
            warnings.append(event.text)
        elif event.kind is Kind.COMMAND and event.text == "true" and event.phase == "end":
            for place in home.snapshots.glob("making/*/out"):
                (place / "entry.json").mkdir(exist_ok=True)

    events = EventLog()
    events.subscribe(obstruct)
    node = {**NODE, "warm_steps": ["true"]}
    with Cluster(
        {"nodes": {"one": node, "two": node}}, accelerator="tcg", events=events
    ) as cluster:
        cluster.start_all()
        assert [cluster[name].succeed("hostname") for name in cluster] == ["one\n", "two\n"]
    (warning,) = warnings
    assert warning.startswith(NOT_MADE)
    assert "Is a directory" in warning
    assert home.left() == []


def test_a_disk_that_is_full_when_the_state_is_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Qemu:
        def save(self, directory: Path) -> None:
            raise SaveError("ram_save_setup failed: Input/output error")  # all that it says

    usage = shutil.disk_usage(tmp_path)
    for free, words in ((4096, "the disk is full"), (1 << 30, "Input/output error")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage._replace(free=free))
        with pytest.raises(NotSavedError, match=words):
            making._save(cast("Vmm", Qemu()), tmp_path)


# Killed, and at the same time


def test_a_driver_killed_while_it_makes_a_snapshot_leaves_nothing_to_the_next(home: Home) -> None:
    for moment in (
        "attest.provision.template bring_to",
        "attest.machine.instance Instance _console_line",
        "attest.snapshot.cache _sync_behind",  # it is in place, and claimed still
    ):
        with home.start({"one": NODE}, happens=f"kill {moment}") as driver:
            said = driver.communicate()[0]
        assert driver.returncode == -signal.SIGKILL, said
        assert home.left() != []
    said = home.run({"one": NODE})
    assert "warning" not in said
    assert home.left() == []
    assert len(home.entries()) == 1


def test_of_two_runs_one_makes_the_snapshot_and_the_other_waits(home: Home) -> None:
    with home.start({"one": NODE}) as maker:
        await_claim(home)
        maker.send_signal(signal.SIGSTOP)  # so that it is not too quick for the other
        try:
            with home.start({"one": NODE}, "-o", str(home.path / "other")) as waiter:
                assert waiter.stdout is not None
                heard = waiter.stdout.readline()
                assert "another run makes the snapshot: wait for it" in heard
                maker.send_signal(signal.SIGCONT)
                assert MADE not in passed(waiter, ["one"])
        finally:
            maker.send_signal(signal.SIGCONT)
        assert MADE in passed(maker, ["one"])
    assert len(home.entries()) == 1
    assert home.left() == []


def await_claim(home: Home) -> None:
    deadline = time.monotonic() + 60
    while not list(home.snapshots.glob("making/*")):
        assert time.monotonic() < deadline
        time.sleep(0.001)


# Another VMM


@pytest.mark.parametrize("qemu", OTHERS, ids=lambda path: path.parents[1].name)
def test_another_version_of_the_vmm_has_snapshots_of_its_own(
    home: Home, made: Entry, qemu: Path
) -> None:
    mine = home.put(made.shape, made)
    said = home.run({"one": NODE}, ATTEST_QEMU=str(qemu))
    assert MADE in said
    assert "warning" not in said
    (its,) = (entry for entry in home.entries() if entry.path != mine)
    (mine / "entry.json").unlink()
    assert SnapshotCache(home.snapshots).sweep() != []
    assert home.put(made.shape, its) == mine  # which looks as it should
    said = home.run({"one": NODE})
    assert f"one: warning: {REMOVED}" in said
    assert said.count("warning") == 1
    assert [entry.path for entry in home.entries()] == [its.path]


# Cold


def test_a_cold_run_neither_reads_nor_writes_the_cache(home: Home, made: Entry) -> None:
    def state() -> dict[Path, tuple[int, int, int]]:
        paths = [home.snapshots, *home.snapshots.rglob("*")]
        return {path: (path.stat().st_ino, *times(path)) for path in paths}

    home.put(made.shape, made)
    before = state()
    home.run({"one": NODE}, "--cold")
    assert state() == before
    home.run({"one": NODE})
    assert state() != before  # a use shows


def times(path: Path) -> tuple[int, int]:
    return path.stat().st_mtime_ns, path.stat().st_ctime_ns
