"""`attest run --watch`: each way of saving a file begins the next run, and nothing else does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest

from tests.leftovers import Host

_MANIFEST = """\
script = "test.py"
[nodes.one]
image = "tiny"
memory = 96
[nodes.two]
image = "tiny"
memory = 96
"""

_WAITING = "waiting for the next save"

_ENDLESS = """\
import re
one.succeed("true")
log.info("here")
re.match("(a+)+$", "a" * 99 + "b")  # lets no other thread run
"""


class Watch:
    """`attest run --watch` of a test, and what it has printed; it ends with the ``with`` block."""

    def __init__(self, manifest: Path, *options: str, host: Host | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "attest", "run", "--watch", "--accel", "tcg",
             *options, manifest.name],
            cwd=manifest.parent, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**(host.environment if host else os.environ), **_path_with(manifest.parent)},
        )  # fmt: skip
        self._printed = ""
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)

    def expect(self, text: str) -> str:
        """Wait until a text is printed; what was printed until then, since the last time."""
        with self._changed:
            self._changed.wait_for(lambda: text in self._printed or self._ended, 200)
            assert text in self._printed, self._printed
            before, found, self._printed = self._printed.partition(text)
            return before + found

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        """End it by a signal; its exit code."""
        self.process.send_signal(how)
        status = self.process.wait(60)
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._changed:
                    self._printed += line
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _path_with(directory: Path) -> dict[str, str]:
    """The environment's part by which a script finds the modules in a directory."""
    return {"PYTHONPATH": f"{directory}:{os.environ.get('PYTHONPATH', '')}"}


def _in_place(file: Path, text: str) -> None:
    file.write_text(text)


def _by_rename(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def _as_vim_does(file: Path, text: str) -> None:
    file.rename(f"{file}~")
    with file.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(f"{file}~").unlink()


def _removed_first(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "test.toml"
    file.write_text(_MANIFEST)
    (tmp_path / "test.py").write_text("log.info(one.succeed('echo first'))\n")
    return file


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "scratch").mkdir()
    return Host(tmp_path / "scratch")


def _standing_by(host: Host) -> int:
    """How many VMMs run."""
    return sum("qemu" in each for each in host.left())


def _await(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 100
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def _logs(directory: Path) -> list[str]:
    lines = (directory / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [each["text"].strip() for each in events if each["kind"] == "log"]


def test_each_way_of_saving_runs_the_script_once(manifest: Path, host: Host) -> None:
    out, script = manifest.parent / "out", manifest.parent / "test.py"
    with Watch(manifest, "-o", str(out), host=host) as watch:
        watch.expect(_WAITING)
        for save in (_in_place, _by_rename, _as_vim_does, _removed_first):
            _await(lambda: _standing_by(host) == 1, "the machine does not stand by")
            assert _logs(out)[-1:] != [save.__name__]
            save(script, f"log.info({save.__name__!r})\none.succeed('true')\n")
            printed = watch.expect(_WAITING)
            assert printed.count(f"{manifest.parent.name}: passed in") == 1
            assert printed.count("test.py saved") == 1
            assert re.search(r"saved → first answer \d+\.\d\d s\n", printed)
            assert _logs(out) == [save.__name__]
            assert [file.name for file in out.glob("console-*")] == ["console-one.log"]
        assert watch.end() == 130
    host.await_nothing_left("after Ctrl-C")


def test_a_run_is_as_one_that_is_not_watched(manifest: Path, host: Host) -> None:
    """Machines that stand by are off, clocks are right, and nothing of the last run is known."""
    script = manifest.parent / "test.py"
    (manifest.parent / "helper.py").write_text("value = 1\n")
    script.write_text("import helper\none.succeed('true')\ntwo.succeed('true')\n")
    checks = """\
import helper, os, time
assert helper.value == {value}
helper.value = 0
assert "ATTEST_WATCHED" not in os.environ
assert not one.booted and not two.booted and one.stage == two.stage == "off"
assert two.absence == "not started"
assert not os.path.exists(out := f"{{one.out_dir}}/console-one.log"), out
one.fail("ping -c 1 -W 1 two || {{ sleep 3; false; }}")
received = "cat /sys/class/net/eth0/statistics/rx_packets"
assert int(two.succeed(received)) == 0, "what was sent to a machine before it was started"
one.succeed("test $(ls /tmp | grep -c mark) = 0 && touch /tmp/mark")
assert abs(int(one.succeed("date +%s")) - time.time()) < 2
two.succeed("ping -c 1 one")
one.succeed("ping -c 1 two")
assert len({{one.succeed("cat /etc/machine-id"), two.succeed("cat /etc/machine-id")}}) == 2
"""
    with Watch(manifest, host=host) as watch:
        watch.expect(_WAITING)
        for value in (1, 2):
            _await(lambda: _standing_by(host) == 2, "the machines do not stand by")
            (manifest.parent / "helper.py").write_text(f"value = {value}\n")
            if value == 1:
                watch.expect(_WAITING)
                _await(lambda: _standing_by(host) == 2, "the machines do not stand by")
                time.sleep(3)  # so that a clock that stood still is seen
                script.write_text(checks.format(value=value))
            else:
                script.write_text(checks.format(value=value))
            assert "passed" in watch.expect(_WAITING)


def test_a_save_during_a_run_begins_it_again(manifest: Path) -> None:
    script = manifest.parent / "test.py"
    script.write_text("one.succeed('true')\nlog.info('here')\none.succeed('sleep 1000')\n")
    with Watch(manifest) as watch:
        watch.expect("here")
        script.write_text("one.succeed('true')\n")
        printed = watch.expect(_WAITING)
        assert "test.py saved; the run ends, and begins again" in printed
        assert "ended after" in printed
        assert "FAILED" not in printed
        assert printed.count("passed in") == 1


def test_errors_are_shown_and_the_next_save_is_awaited(manifest: Path) -> None:
    script = manifest.parent / "test.py"
    with Watch(manifest) as watch:
        watch.expect(_WAITING)
        script.write_text("one.succeed(\n")
        watch.expect("test.py:1: '(' was never closed")
        watch.expect(_WAITING)
        script.write_text("one.succeed('exit 3')\n")
        printed = watch.expect(_WAITING)
        assert "to succeed: exit code 3" in printed
        assert printed.count("FAILED") == 1
        script.unlink()
        watch.expect("cannot read test.py: No such file or directory")
        manifest.write_text(_MANIFEST.replace("image", "imgae", 1))
        watch.expect("did you mean `image`?")
        manifest.write_text(_MANIFEST)
        watch.expect("there is no file")
        script.write_text("one.succeed('true')\n")
        assert "passed in" in watch.expect(_WAITING)


def test_other_machines_are_made_when_what_they_are_made_of_changes(manifest: Path) -> None:
    directory = manifest.parent
    recipe, file = directory / "image.toml", directory / "file"
    content = directory / "content"
    recipe.write_text('base = "tiny"\nfiles."/etc/content" = "content"\n')
    content.write_text("a")
    file.write_text("b")
    manifest.write_text(
        'script = "test.py"\n[nodes.one]\nimage = "image.toml"\nmemory = 96\n'
        'files."/etc/file" = "file"\n'
    )
    (directory / "test.py").write_text("log.info(one.succeed('cat /etc/content /etc/file'))\n")
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: file.write_text("c"), "ac"),
        (lambda: content.write_text("d"), "dc"),
        (lambda: recipe.write_text('base = "tiny"\nfiles."/etc/content".text = "e"\n'), "ec"),
        (lambda: manifest.write_text(manifest.read_text().replace('"/etc/file"', '"/etc/content"')),
         "c"),
    ]  # fmt: skip
    with Watch(manifest) as watch:
        assert ": ab\n" in watch.expect(_WAITING).replace("  ab", ": ab")
        for change, seen in changes:
            if seen == "c":
                (directory / "test.py").write_text("log.info(one.succeed('cat /etc/content'))\n")
                watch.expect(_WAITING)
            change()
            printed = watch.expect(_WAITING)
            assert f"  {seen}\n" in printed
            assert "passed in" in printed


def test_a_module_that_is_imported_is_watched(manifest: Path) -> None:
    directory = manifest.parent
    (directory / "test.py").write_text("import helper\none.succeed(f'echo {helper.word}')\n")
    with Watch(manifest) as watch:
        watch.expect("No module named 'helper'")
        watch.expect(_WAITING)
        (directory / "helper.py").write_text("word = (\n")
        watch.expect("SyntaxError")
        watch.expect(_WAITING)
        (directory / "helper.py").write_text("word = 'right'\n")
        assert "echo right" in watch.expect(_WAITING)


def test_a_run_that_is_killed_is_told(manifest: Path) -> None:
    (manifest.parent / "test.py").write_text(
        "import os, signal\none.succeed('true')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with Watch(manifest) as watch:
        assert "attest: the run was ended by signal 9\n" in watch.expect(_WAITING)


def test_a_script_that_keeps_pythons_lock_is_ended(manifest: Path) -> None:
    script = manifest.parent / "test.py"
    script.write_text(_ENDLESS)
    with Watch(manifest) as watch:
        watch.expect("here")
        script.write_text("one.succeed('echo again')\n")
        assert "again" in watch.expect(_WAITING)


@pytest.mark.parametrize("when", ["run", "standby", "endless"])
def test_nothing_is_left_when_the_watcher_is_killed(manifest: Path, host: Host, when: str) -> None:
    if when == "run":
        (manifest.parent / "test.py").write_text(
            "one.succeed('true')\nlog.info('here')\none.succeed('sleep 1000')\n"
        )
    elif when == "endless":
        (manifest.parent / "test.py").write_text(_ENDLESS)
    with Watch(manifest, host=host) as watch:
        watch.expect(_WAITING if when == "standby" else "here")
        _await(lambda: _standing_by(host) == 1, "no machine runs")
        assert watch.end(signal.SIGKILL) == -signal.SIGKILL
        host.await_nothing_left("after kill -9")


@pytest.fixture(scope="module", autouse=True)
def _snapshot(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Machines of the tests' shape start as clones."""
    file = tmp_path_factory.mktemp("first") / "test.toml"
    file.write_text(_MANIFEST.replace("test.py", "one.succeed('true')"))
    subprocess.run([sys.executable, "-m", "attest", "run", "--accel", "tcg", file], check=True)
