"""Files of the host in machines: copied once, and a change of them costs no boot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import CommandFailed
from attest.events import Event, EventLog, Kind
from attest.support.paths import cache_dir

_BOOTS = "save tiny for later starts: booted"
_GOES_ON = ("save tiny for later starts: files", "save tiny for later starts: steps")
_PREPARES = "prepare tiny once, for a snapshot"
_STEP = "cat /srv/deep/app /srv/tree/sub/x > /root/seen"


class Project:
    """A directory with files for machines, and a cache of its own.

    Args:
        path: An empty directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "cache/attest").mkdir(parents=True)
        (path / "cache/attest/images").symlink_to(cache_dir() / "images")
        (path / "tree/sub").mkdir(parents=True)
        (path / "tree/sub/x").write_text("x")
        (path / "tree/link").symlink_to("sub/x")
        (path / "app").write_text("one")
        (path / "app").chmod(0o750)

    def run(self, commands: dict[str, str], *steps: str, cold: bool = False) -> dict[str, Any]:
        """Run a command in machines that have the files; ``stepped`` has run the steps, too.

        Returns:
            What each machine printed, and as ``"made"`` what was made for snapshots, and warnings.
        """
        node = {"image": "tiny", "memory": 96, "files": {
            "/srv/deep/app": "app", "/srv/tree": "tree", "/etc/tree": "tree/sub",
        }}  # fmt: skip
        nodes = {"plain": node, "stepped": {**node, "warm_steps": list(steps)}}
        made: list[str] = []
        events = EventLog()

        def note(event: Event) -> None:
            if event.phase == "begin" and event.text in _GOES_ON:
                made.append("it goes on")  # whichever of the two has booted
            elif (event.phase == "begin" and event.text in (_BOOTS, _PREPARES)) or (
                event.kind is Kind.WARNING
            ):
                made.append(event.text)

        events.subscribe(note)
        manifest = {
            "nodes": {name: nodes[name] for name in commands}, "directory": str(self.path),
        }  # fmt: skip
        with Cluster(manifest, accelerator="tcg", cold=cold, events=events) as cluster:
            cluster.start_all()
            said = {name: cluster[name].succeed(text) for name, text in commands.items()}
        return {**said, "made": sorted(made)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One whose machines have been started."""
    project = Project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(project.path / "cache"))
        patch.setattr("os.fsync", lambda _: None)
        said = project.run(
            {"plain": "cat /srv/deep/app; readlink /srv/tree/link; stat -c %a /srv/deep/app",
             "stepped": "cat /root/seen"},
            _STEP,
        )  # fmt: skip
        assert said == {
            "plain": "onesub/x\n750\n", "stepped": "onex",
            "made": ["it goes on", _PREPARES, _BOOTS],
        }  # fmt: skip
        yield project
    shutil.rmtree(project.path)


def test_what_has_not_changed_is_not_copied_again(project: Project) -> None:
    (project.path / "app").touch()
    said = project.run({"plain": "cat /srv/deep/app", "stepped": "cat /root/seen"}, _STEP)
    assert said == {"plain": "one", "stepped": "onex", "made": []}


def test_a_file_that_has_changed_costs_no_boot(project: Project) -> None:
    (project.path / "app").write_text("two")
    said = project.run({"stepped": "cat /root/seen"}, _STEP)
    assert said == {"stepped": "twox", "made": [_PREPARES]}
    (project.path / "app").write_text("one")
    assert project.run({"stepped": "cat /root/seen"}, _STEP)["made"] == []


def test_a_step_that_has_changed_goes_on_from_the_files(project: Project) -> None:
    said = project.run({"stepped": "cat /root/seen; date +%Y"}, f"{_STEP}; date > /root/when")
    assert said["stepped"].startswith("onex20")
    assert said["made"] == [_PREPARES]


def test_a_step_that_fails_is_the_tests_failure(project: Project) -> None:
    with pytest.raises(CommandFailed, match="as a warm step: exit code 3"):
        project.run({"stepped": "true"}, "exit 3")


def test_a_machine_that_boots_has_it_all_too(project: Project) -> None:
    said = project.run(
        {"plain": "cat /etc/tree/x; ls /root", "stepped": "cat /root/seen"}, _STEP, cold=True
    )
    assert said == {"plain": "x", "stepped": "onex", "made": []}
    with pytest.raises(CommandFailed, match="as a warm step: exit code 3"):
        project.run({"stepped": "true"}, "exit 3", cold=True)
